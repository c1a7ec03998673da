"""Summaries of one evaluation and comparisons of two."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.diagnosis.compare import Comparison, Summary, compare, summarise
from posttrain.diagnosis.passk import pass_at_k
from posttrain.errors import ConfigError, ContractError, DataError


def test_summary_by_hand(evaluation) -> None:
    """Two of four right on one problem, none on the other: every k by counting subsets."""
    summary = summarise(evaluation([2, 0], n=4))
    assert summary.samples == 4
    assert list(summary.pass_at) == [1, 2, 4]
    assert [summary.pass_at[k].estimate for k in (1, 2, 4)] == pytest.approx([1 / 4, 5 / 12, 1 / 2])
    assert [summary.pass_hat[k].estimate for k in (1, 2, 4)] == pytest.approx([1 / 4, 1 / 12, 0])
    assert [summary.informative[k].estimate for k in (2, 4)] == pytest.approx([4 / 12, 1 / 2])
    assert summary.headroom.estimate == pytest.approx(5 / 12 - 1 / 4)
    assert summary.distinct_right.estimate == 0.5


def test_slices_share_the_ks_and_split_the_problems(evaluation) -> None:
    rows = evaluation([64] * 10, slice="easy") + evaluation([0] * 20, n=16, slice="hard", first=10)
    summary = summarise(rows)
    easy, hard = summary.slices["easy"], summary.slices["hard"]
    assert (summary.problems, easy.problems, hard.problems) == (30, 10, 20)
    assert summary.pass_at.keys() == easy.pass_at.keys() == hard.pass_at.keys()
    assert (easy.pass_at[1].estimate, hard.pass_at[1].estimate) == (1, 0)
    assert (easy.slices, hard.slices) == ({}, {})


def test_unscorable_is_counted(evaluation) -> None:
    rows = evaluation([4, 0, 3], n=[8, 0, 4])
    rows[2] = rows[2].model_copy(update={"scores": [*rows[2].scores, None, None, None, None], "tokens": [6] * 8})
    summary = summarise(rows)
    assert (summary.problems, summary.unscorable_problems, summary.unscorable_samples) == (2, 1, 1 + 4)
    assert summary.pass_at[1].estimate == pytest.approx((4 / 8 + 3 / 4) / 2)


def test_problems_with_too_few_samples_are_counted(evaluation) -> None:
    summary = summarise(evaluation([8] * 19 + [1], n=[64] * 19 + [2]))
    assert summary.samples == 64
    assert (summary.too_few[2], summary.too_few[4], summary.too_few[64]) == (0, 1, 1)
    assert summary.pass_at[64].estimate == 1


def test_lengths_of_right_and_wrong(evaluation) -> None:
    (row,) = evaluation([2], n=4)
    row = row.model_copy(update={"tokens": [10, 20, 30, 99], "truncated": 1})
    row = row.model_copy(update={"scores": [1.0, 1.0, 0.4, None]})
    summary = summarise([row])
    assert summary.tokens.estimate == pytest.approx(159 / 4)
    assert (summary.tokens_right.estimate, summary.tokens_wrong.estimate) == (15, 30)
    assert summary.truncated.estimate == 0.25


@pytest.mark.parametrize("correct", [[0], [1], [0, 1], [1, 1, 1]])
def test_one_sample_each(evaluation, correct: list[int]) -> None:
    summary = summarise(evaluation(correct, n=1))
    assert list(summary.pass_at) == [1]
    assert summary.informative == {}
    assert summary.pass_at[1].estimate == np.mean(correct)
    assert summary.pass_at[1].width > 0.5


def test_nothing_to_summarise(evaluation) -> None:
    for rows in ([], evaluation([0, 0], n=0)):
        summary = summarise(rows)
        assert summary.problems == 0
        assert summary.unscorable_problems == len(rows)
        assert str(summary.pass_at[1]) == "n/a"


@settings(max_examples=25, deadline=None)
@given(drawn=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=9), random=st.randoms())
def test_any_evaluation_summarises_alike_in_any_order(evaluation, drawn: list[tuple[int, int]], random) -> None:
    rows = evaluation([min(pair) for pair in drawn], n=[max(pair) for pair in drawn])
    summary, shuffled = summarise(rows), summarise(random.sample(rows, len(rows)))
    assert str(summary) == str(shuffled)
    rates = [*summary.pass_at.values(), *summary.pass_hat.values(), *summary.informative.values(), summary.headroom]
    for interval in rates:
        assert not interval.known or -1e-9 <= interval.low <= interval.high <= 1 + 1e-9


def test_differences_are_paired(evaluation) -> None:
    """Problems differ widely, each improves a little: only a paired interval can see it."""
    spread = list(range(0, 60, 2)) * 4
    change = compare(evaluation(spread), evaluation([c + 3 for c in spread])).pass_1
    assert change.delta.estimate == pytest.approx(3 / 64)
    assert change.delta.low > 0.02
    assert change.before.high > change.after.low
    assert change.after.estimate - change.before.estimate == pytest.approx(change.delta.estimate)


def test_k_is_half_the_samples_unless_chosen(evaluation) -> None:
    before, after = evaluation([1] * 8), evaluation([2] * 8)
    assert compare(before, after).k == 32
    chosen = compare(before, after, k=64)
    assert (chosen.k, chosen.pass_k.before.estimate) == (64, 1)
    assert compare(before, evaluation([1] * 8, n=8)).k == 4
    with pytest.raises(ConfigError, match="k = 0"):
        compare(before, after, k=0)


def test_pass_k_uses_the_same_problems_on_both_sides(evaluation) -> None:
    before = evaluation([32] * 19 + [0], n=64)
    after = evaluation([32] * 19 + [4], n=[64] * 19 + [4])
    comparison = compare(before, after)
    assert (comparison.k, comparison.too_few) == (32, 1)
    expected = pass_at_k([64], [32], 32)[0]
    assert comparison.pass_k.before.estimate == comparison.pass_k.after.estimate == pytest.approx(expected)
    assert comparison.pass_k.delta.estimate == 0


def test_kept_problems_only(evaluation) -> None:
    comparison = compare(evaluation([16] * 10 + [0] * 10), evaluation([32] * 10 + [64] * 10))
    assert comparison.pass_1_kept.estimate == pytest.approx(0.25)
    assert comparison.pass_1.delta.estimate == pytest.approx((0.25 + 1) / 2)


def test_slices(evaluation) -> None:
    before = evaluation([20] * 10, slice="easy") + evaluation([0] * 10, slice="hard", first=10)
    after = evaluation([20] * 10, slice="easy") + evaluation([9] * 9 + [0], n=[64] * 9 + [0], slice="hard", first=10)
    comparison = compare(before, after)
    assert comparison.support.unscorable == comparison.slices["hard"].support.unscorable == 1
    assert comparison.slices["easy"].support.unscorable == 0
    assert comparison.slices["easy"].pass_1.delta.estimate == 0
    assert comparison.slices["hard"].support.gained.share.estimate == 1
    assert comparison.problems == 19


def test_slice_without_usable_problems(evaluation) -> None:
    rows = evaluation([20] * 10, slice="easy") + evaluation([0] * 2, n=0, slice="hard", first=10)
    hard = compare(rows, rows).slices["hard"]
    assert (hard.problems, hard.support.unscorable) == (0, 2)
    assert not hard.pass_1.delta.known


def test_different_problems_are_refused(evaluation) -> None:
    with pytest.raises(ContractError):
        compare(evaluation([1]), evaluation([1], first=1))


def test_every_number_is_an_interval() -> None:
    """A rate without its interval would be quoted without it."""
    counted = {"problems", "unscorable_problems", "unscorable_samples", "samples", "too_few", "k", "slices", "support"}
    for cls in (Summary, Comparison):
        for field in dataclasses.fields(cls):
            assert field.name in counted or field.type in ("Interval", "Change", "dict[int, Interval]"), field.name


def test_a_k_beyond_the_samples_is_refused(evaluation) -> None:
    rows = evaluation([2] * 20, n=4)
    assert compare(rows, rows, k=4).k == 4
    with pytest.raises(DataError, match="k = 5, but 20 of 20 problems have fewer scored samples"):
        compare(rows, rows, k=5)
