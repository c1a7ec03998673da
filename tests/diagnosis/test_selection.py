"""Votes, best-of-k, agreement and calibration against every subset, every pair and their definitions."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.diagnosis.passk import pass_at_k, pass_hat_k
from posttrain.diagnosis.selection import (
    agreement_auc,
    agreement_within,
    answer_entropy,
    best_of_k,
    calibration,
    majority_at_k,
    majority_right,
    majority_share,
    selection_gap,
)
from posttrain.errors import ConfigError, DataError

# Votes as (times, right), and samples that gave no answer.
PROBLEMS = [
    ([(3, True), (2, False), (1, False)], 0),
    ([(2, False), (2, True)], 3),
    ([(1, True), (1, True), (1, False), (1, False)], 2),
    ([], 4),
    ([(5, False)], 0),
]

votes = st.lists(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=5), min_size=1, max_size=6)
samples = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=9)


def ragged(problems):
    offsets = np.concatenate([[0], np.cumsum([len(answers) for answers in problems])]).astype(np.int64)
    flat = [answer for answers in problems for answer in answers]
    return offsets, np.array([t for t, _ in flat], dtype=float), np.array([r for _, r in flat], dtype=bool)


def winner_right(drawn, answers):
    """Of a subset of samples, by answer or None; ties split evenly."""
    given_ = [answer for answer in drawn if answer is not None]
    most = max((given_.count(a) for a in set(given_)), default=0)
    top = [a for a in set(given_) if given_.count(a) == most]
    return sum(answers[a][1] for a in top) / len(top) if top else 0.0


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6, 20])
def test_majority_at_k_is_the_mean_over_every_subset_of_samples(k) -> None:
    copies, expected = 400, []
    for answers, silent in PROBLEMS:
        pool = [a for a, (times, _) in enumerate(answers) for _ in range(times)] + [None] * silent
        subsets = list(combinations(pool, min(k, len(pool))))
        expected.append(sum(winner_right(drawn, answers) for drawn in subsets) / len(subsets))
    silent_M = np.repeat([float(silent) for _, silent in PROBLEMS], copies)
    table = ragged([answers for answers, _ in PROBLEMS for _ in range(copies)])
    drawn_M = majority_at_k(*table, k, seed=1, silent_M=silent_M).reshape(-1, copies).mean(1)
    # 400 copies of 64 draws: a standard error of at most .5 / sqrt(25600) = .0031.
    np.testing.assert_allclose(drawn_M, expected, atol=0.013)


@given(votes, st.integers(1, 30))
def test_votes_are_shares_and_all_of_them_are_the_majority(problems, k) -> None:
    table = ragged(problems)
    majority_M = majority_right(*table)
    drawn_M = majority_at_k(*table, k, draws=2)
    total_M = np.array([sum(times for times, _ in answers) for answers in problems])
    assert np.all((majority_M >= 0) & (majority_M <= 1) & (drawn_M >= 0) & (drawn_M <= 1))
    np.testing.assert_allclose(drawn_M[total_M <= k], majority_M[total_M <= k], atol=1e-12)
    share_M, entropy_M = majority_share(*table[:2]), answer_entropy(*table[:2])
    assert np.isnan(share_M).tolist() == np.isnan(entropy_M).tolist() == (total_M == 0).tolist()
    distinct_M = np.array([max(1, sum(times > 0 for times, _ in answers)) for answers in problems])
    voted = total_M > 0
    assert np.all(entropy_M[voted] <= np.log(distinct_M[voted]) + 1e-12)
    assert np.all(entropy_M[voted] >= -np.log(share_M[voted]) - 1e-12)  # min-entropy is the smaller


def test_where_nobody_gives_an_answer_there_is_no_majority() -> None:
    table = ragged([[], []])
    assert majority_right(*table).tolist() == majority_at_k(*table, 4).tolist() == [0.0, 0.0]
    assert np.isnan(majority_share(*table[:2])).all() and np.isnan(answer_entropy(*table[:2])).all()


def test_one_vote_is_a_sample() -> None:
    table = ragged([[(3, True), (5, False)]] * 500)
    assert majority_at_k(*table, 1).mean() == pytest.approx(3 / 8, abs=0.015)
    with pytest.raises(ConfigError, match="k = 0"):
        majority_at_k(*table, 0)


def test_the_gap_counts_silent_samples_as_drawn() -> None:
    table = ragged([[(2, True)]] * 600)
    n_M, c_M = np.full(600, 8.0), np.full(600, 2.0)
    # Whenever the right answer is drawn it is the only vote, so the vote loses nothing to a perfect selector.
    assert selection_gap(n_M, c_M, *table, k=3).mean() == pytest.approx(0.0, abs=0.015)
    wrong_first = ragged([[(2, True), (6, False)]] * 600)
    assert selection_gap(n_M, c_M, *wrong_first, k=8) == pytest.approx(1.0)
    assert np.isnan(selection_gap(n_M, c_M, *table, k=9)).all()


@given(samples, st.data())
def test_best_of_k_is_the_mean_over_every_subset(scored, data) -> None:
    k = data.draw(st.integers(1, len(scored)))
    scores = np.array([[float(s) for s, _ in scored]])
    right = np.array([[r for _, r in scored]])
    total, subsets = 0.0, list(combinations(range(len(scored)), k))
    for subset in subsets:
        top = [i for i in subset if scores[0, i] == max(scores[0, list(subset)])]
        total += right[0, top].mean()  # a tie is broken by chance
    best = best_of_k(scores, right, k)[0]
    assert best == pytest.approx(total / len(subsets), abs=1e-9)
    n, c = [len(scored)], [int(right.sum())]
    assert pass_hat_k(n, c, k)[0] - 1e-9 <= best <= pass_at_k(n, c, k)[0] + 1e-9
    assert best_of_k(np.exp(scores), right, k)[0] == pytest.approx(best, abs=1e-12)  # only the order counts


def test_best_of_k_of_problems_with_unequal_samples() -> None:
    chance = np.random.default_rng(0)
    scores, right = chance.integers(0, 4, (5, 7)).astype(float), chance.random((5, 7)) < 0.4
    sizes = [7, 5, 3, 2, 0]
    padded = np.where(np.arange(7) < np.array(sizes)[:, None], scores, np.nan)
    for k in (1, 2, 3):
        together = best_of_k(padded, right, k)
        for i, size in enumerate(sizes):
            alone = best_of_k(scores[i : i + 1, :size], right[i : i + 1, :size], k)[0] if size >= k else math.nan
            np.testing.assert_allclose(together[i], alone)
    with pytest.raises(ConfigError, match="k = 0"):
        best_of_k(scores, right, 0)


def test_equal_scores_select_nothing() -> None:
    right = np.random.default_rng(1).random((20, 64)) < 0.3
    for k in (1, 8, 64):
        np.testing.assert_allclose(best_of_k(np.zeros((20, 64)), right, k), right.mean(1), atol=1e-9)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 3), st.booleans()), max_size=30))
def test_agreement_is_the_share_of_pairs(rows) -> None:
    problem = np.array([p for p, _, _ in rows], dtype=np.int64)
    scores, right = np.array([float(s) for _, s, _ in rows]), np.array([r for _, _, r in rows], dtype=bool)
    found = agreement_within(problem, scores, right)
    assert len(found.auc_M) == problem.max(initial=0) + 1
    for i in range(len(found.auc_M)):
        mine = problem == i
        pairs = [(a > b) + 0.5 * (a == b) for a, b in product(scores[mine & right], scores[mine & ~right])]
        assert found.pairs_M[i] == len(pairs)
        np.testing.assert_allclose(found.auc_M[i], np.mean(pairs) if pairs else math.nan)
    np.testing.assert_allclose(agreement_within(problem, -scores, right).auc_M, 1 - found.auc_M)
    np.testing.assert_allclose(agreement_within(problem, np.exp(scores), right).auc_M, found.auc_M)


def test_telling_problems_apart_is_no_agreement_within_them() -> None:
    problem = np.repeat([0, 1], 10)
    right = np.array([True] * 8 + [False] * 2 + [True] * 2 + [False] * 8)
    knows_the_problem_only = np.repeat([1.0, 0.0], 10)
    assert agreement_auc(knows_the_problem_only, right) == pytest.approx(0.8)
    assert agreement_within(problem, knows_the_problem_only, right).auc_M.tolist() == [0.5, 0.5]
    with pytest.raises(DataError, match="sample 3 has no score"):
        agreement_auc(np.array([1.0, 2, 3, math.nan]), right[:4])


def test_calibration_by_hand() -> None:
    confidence = np.array([0.05, 0.05, 0.95, 0.95, 1.0, math.nan])
    right = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    found = calibration(confidence, right)
    # Two bins: |.1 - 1| and |2.9 - 2|, over five samples; the one without a confidence is left out.
    assert found.ece == pytest.approx((0.9 + 0.9) / 5)
    assert found.brier == pytest.approx((0.05**2 + 0.95**2 + 0.05**2 + 0.95**2) / 5)
    with pytest.raises(DataError, match="confidence 95"):
        calibration(np.array([95.0]), np.array([1.0]))


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=40), st.integers(1, 20))
def test_calibration_is_bounded_and_one_bin_is_bias(rows, bins) -> None:
    confidence, right = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    found = calibration(confidence, right, bins)
    bias = abs(confidence.mean() - right.mean())
    assert bias - 1e-9 <= found.ece <= 1 + 1e-9 and 0 <= found.brier <= 1
    assert calibration(confidence, right, 1).ece == pytest.approx(bias, abs=1e-9)
