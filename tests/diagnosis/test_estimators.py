"""Estimators against enumeration, closed forms and their own symmetries."""

import itertools
import math

import numpy as np
import pytest

from posttrain.diagnosis import divergence, hacking, selection, sharpening, teachers
from posttrain.diagnosis.demonstrations import surprise
from posttrain.diagnosis.passk import informative_rate, log_choose, pass_at_k
from posttrain.errors import DataError

# Three problems: votes 3 right, 2 wrong, 1 wrong | 2 right, 2 wrong | none.
OFFSETS = np.array([0, 3, 5, 5])
COUNTS = np.array([3.0, 2.0, 1.0, 2.0, 2.0])
RIGHT = np.array([True, False, False, True, False])


def majority_by_enumeration(votes, k):
    """Over every k-subset of the votes, ties split evenly. `votes`: (answer, right) pairs."""
    subsets = list(itertools.combinations(votes, min(k, len(votes))))
    total = 0.0
    for subset in subsets:
        counts = {pair: subset.count(pair) for pair in subset}
        top = [pair for pair, count in counts.items() if count == max(counts.values())]
        total += sum(right for _, right in top) / len(top)
    return total / len(subsets)


def test_majority():
    assert selection.majority_right(OFFSETS, COUNTS, RIGHT).tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_majority_of_k_agrees_with_every_subset(k):
    votes = [[("a", True)] * 3 + [("b", False)] * 2 + [("c", False)], [("a", True)] * 2 + [("b", False)] * 2]
    expected = [*(majority_by_enumeration(v, k) for v in votes), 0.0]
    drawn = selection.majority_at_k(OFFSETS, COUNTS, RIGHT, k, seed=1, draws=4000)
    assert drawn == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_best_of_k_agrees_with_every_subset(k):
    scores = np.array([[0.1, 0.7, 0.7, 0.2, 0.9, 0.2]])
    right = np.array([[True, False, True, True, False, False]])
    total = []
    for subset in itertools.combinations(range(6), k):
        top = max(scores[0, list(subset)])
        best = [i for i in subset if scores[0, i] == top]
        # Equal scores share the correctness of their whole tie group in the six, as ranks do.
        group = [i for i in range(6) if scores[0, i] == top]
        total.append(np.mean(right[0, group]) if best else 0.0)
    assert selection.best_of_k(scores, right, k)[0] == pytest.approx(np.mean(total))


def test_a_perfect_selector_reaches_pass_at_k():
    right = np.random.default_rng(0).random((40, 16)) < 0.2
    perfect = selection.best_of_k(right.astype(float), right, 4)
    assert perfect == pytest.approx(pass_at_k([16] * 40, right.sum(1), 4))


def test_auc_agrees_with_every_pair():
    chance = np.random.default_rng(3)
    scores, right = chance.integers(0, 5, 60).astype(float), chance.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[right] for b in scores[~right]]
    assert selection.agreement_auc(scores, right) == pytest.approx(np.mean(pairs))
    assert math.isnan(selection.agreement_auc(scores, np.ones(60, bool)))


def test_calibration_of_honest_and_of_boastful_confidence():
    chance = np.random.default_rng(1)
    confidence = chance.random(20000)
    right = (chance.random(20000) < confidence).astype(float)
    honest, boastful = selection.calibration(confidence, right), selection.calibration(np.ones(20000), right)
    assert honest.ece < 0.02
    assert boastful.ece == pytest.approx(0.5, abs=0.02)
    assert honest.brier == pytest.approx(1 / 6, abs=0.01)


def test_shares_and_entropy_of_votes():
    assert selection.majority_share(OFFSETS, COUNTS)[:2].tolist() == [0.5, 0.5]
    entropy = selection.answer_entropy(OFFSETS, COUNTS)
    assert entropy[1] == pytest.approx(math.log(2))
    assert np.isnan(entropy[2])


def test_area_under_the_rise_by_hand():
    n, c = np.array([8.0, 8.0]), np.array([2.0, 8.0])
    rates = [pass_at_k(n, c, k) for k in range(1, 5)]
    assert sharpening.area(n, c, 4) == pytest.approx(sum(rates[3] - rate for rate in rates[:3]))
    assert sharpening.area(n, c, 4)[1] == 0


def test_sharpening_is_taxed_and_nothing_is_not():
    n = np.full(60, 64.0)
    broad, sharp = np.full(60, 8.0), np.where(np.arange(60) % 2, 60.0, 0.0)
    tax = sharpening.sharpening_tax((n, broad), (n, sharp), 32)
    assert tax.area.low > 0 and tax.scaled.low > 0
    none = sharpening.sharpening_tax((n, broad), (n, broad), 32)
    assert (none.area.estimate, none.scaled.estimate) == (0, 0)


def test_kl_estimators_agree_with_the_exact_one():
    chance = np.random.default_rng(5)
    p, q = chance.dirichlet(np.ones(6)), chance.dirichlet(np.ones(6))
    exact = divergence.exact_kl(np.log(p)[None], np.log(q)[None])[0]
    assert exact == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    drawn = chance.choice(6, 400_000, p=p)
    ours, theirs = np.log(p)[drawn], np.log(q)[drawn]
    assert divergence.k1(ours, theirs).mean() == pytest.approx(exact, abs=0.02)
    assert divergence.k3(ours, theirs).mean() == pytest.approx(exact, abs=0.02)
    assert divergence.k3(ours, theirs).min() >= 0
    assert np.mean(divergence.sequence_entropy(ours)) == pytest.approx(-(p * np.log(p)).sum(), abs=0.02)


def test_mismatch_of_equal_and_of_shifted_engines():
    sampled = np.log(np.random.default_rng(2).random(1000) + 0.1)
    same = divergence.mismatch(sampled, sampled)
    assert (same.mean, same.largest, same.ratio, same.effective_share) == (0, 0, 1, 1)
    off = divergence.mismatch(sampled + np.random.default_rng(4).normal(0, 1, 1000), sampled)
    assert off.effective_share < 0.6 and off.mean > 0.5


def test_demonstrations_surprise_by_their_rarest_token():
    likely, rare = np.log([0.9, 0.8]), np.log([0.9, 0.001])
    found = surprise([likely] * 8 + [rare] * 8)
    assert found.surprising.estimate == 0.5
    assert found.improbable_tokens.estimate == 0.25
    assert surprise([likely] * 8).loss.estimate == pytest.approx(-np.mean(np.log([0.9, 0.8])))


def test_a_teacher_is_new_where_the_student_s_zero_is_no_luck():
    student_n, student_c = np.array([64.0, 64, 64, 64]), np.array([0.0, 0, 3, 0])
    teacher_n, teacher_c = np.full(4, 64.0), np.array([40.0, 1, 40, 0])
    assert teachers.teacher_novelty(student_n, student_c, teacher_n, teacher_c).tolist() == [1, 0, 0, 0]
    assert teachers.transfer_bound(0.8, 0.08) == pytest.approx(0.6)
    assert teachers.transfer_bound(0.1, 9) == 0


def test_the_gold_curve_is_found_again_and_peaks_where_it_says():
    truth = hacking.GoldCurve(2.0, 0.7)
    distance = np.linspace(0, 12, 60)
    found = hacking.fit_gold(distance, truth.gold(distance))
    assert found == pytest.approx(truth)
    fine = np.linspace(0.1, 20, 20000)
    assert fine[truth.gold(fine).argmax()] == pytest.approx(found.peak, abs=0.01)
    with pytest.raises(DataError, match="2 points"):
        hacking.fit_gold(np.array([0.0, 1, 2]), np.zeros(3))


@pytest.mark.parametrize(("n", "k"), [(5, 2), (64, 64), (3, 0), (2, 5)])
def test_log_choose(n, k):
    expected = math.log(math.comb(n, k)) if k <= n else -math.inf
    assert log_choose(np.array([n]), np.array([k]))[0] == pytest.approx(expected)


def test_informative_groups_by_enumeration():
    samples = [1, 1, 0, 0, 0, 0]
    groups = [sum(group) for group in itertools.combinations(samples, 3)]
    assert informative_rate([6], [2], 3)[0] == pytest.approx(np.mean([0 < g < 3 for g in groups]))
