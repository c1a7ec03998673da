"""Support sets, and that luck is neither called gain nor loss."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.artifacts.evaluation import Evaluation
from posttrain.diagnosis.intervals import bootstrap, zero_success_bound
from posttrain.diagnosis.support import _by_luck, _solid, distinct_right, pair, support_sets
from posttrain.errors import ContractError


def test_four_sets(evaluation) -> None:
    sets = support_sets(pair(evaluation([10, 0, 20, 0, 1]), evaluation([5, 30, 0, 0, 0])))
    assert sets.problems == 5
    assert sets.kept.ids == ("p0000",)
    assert sets.gained.ids == sets.gained.solid == ("p0001",)
    assert sets.lost.ids == ("p0002", "p0004")
    assert sets.lost.solid == ("p0002",)
    assert sets.outside.ids == ("p0003",)
    shares = [part.share.estimate for part in (sets.kept, sets.gained, sets.lost, sets.outside)]
    assert shares == [0.2, 0.2, 0.4, 0.2]
    assert sets.outside_bound == pytest.approx(zero_success_bound(64))


def test_order_of_rows_is_irrelevant(evaluation) -> None:
    before, after = evaluation([10, 0, 20, 0, 1, 3, 64]), evaluation([5, 30, 0, 0, 0, 9, 2])
    assert support_sets(pair(before, after)) == support_sets(pair(before[::-1], after[3:] + after[:3]))


@pytest.mark.parametrize(
    ("c", "n_here", "n_there", "counted"),
    [
        # (1 - c/n_here)^n_there < .05
        (1, 64, 64, False),  # .365
        (2, 64, 64, False),  # .131
        (3, 64, 64, True),  # .046
        (3, 64, 32, False),  # .215: the other side looked too briefly
        (2, 64, 128, True),  # .017
        (1, 1, 1, True),  # a rate of 1 never misses; what luck does there is left to `beyond_luck`
        (1, 2, 4, False),  # .0625
        (1, 2, 5, True),  # .031
    ],
)
def test_luck_rule(evaluation, c: int, n_here: int, n_there: int, counted: bool) -> None:
    assert ((1 - c / n_here) ** n_there < 0.05) is counted
    some, none = evaluation([c], n=n_here), evaluation([0], n=n_there)
    lost = support_sets(pair(some, none)).lost
    gained = support_sets(pair(none, some)).gained
    for crossing in (lost, gained):
        assert crossing.ids == ("p0000",)
        assert crossing.solid == (("p0000",) if counted else ())


@pytest.mark.parametrize("p", [0.01, 0.1, 0.25, 0.6, 0.99])
@pytest.mark.parametrize(("n_out", "n_in"), [(1, 1), (8, 8), (12, 7), (7, 12), (40, 40)])
def test_luck_is_subtracted_exactly(p: float, n_out: int, n_in: int) -> None:
    """If nothing changed, solid crossings less `_by_luck` average to zero over every outcome of both evaluations."""
    outcomes = [(a, b) for a in range(n_out + 1) for b in range(n_in + 1)]
    c_out, c_in = np.array(outcomes, dtype=float).T
    weights = np.array(
        [
            math.comb(n_out, a) * math.comb(n_in, b) * p ** (a + b) * (1 - p) ** (n_out + n_in - a - b)
            for a, b in outcomes
        ]
    )
    scored_out, scored_in = np.full(len(outcomes), float(n_out)), np.full(len(outcomes), float(n_in))
    solid = (c_out == 0) & (c_in > 0) & _solid(c_in, scored_in, scored_out)
    lucky = _by_luck(scored_out, scored_in, c_out + c_in)
    assert weights @ solid == pytest.approx(weights @ lucky, abs=1e-12)


def test_rare_problems_are_neither_gained_nor_lost_where_nothing_changed(evaluation) -> None:
    """Rates of 1.5 in 64 cross the border both ways. The uncorrected share would call that expansion nearly always."""
    rng = np.random.default_rng(0)
    naive = corrected = 0
    for seed in range(30):
        before, after = (evaluation(rng.binomial(64, 1.5 / 64, 128).tolist()) for _ in range(2))
        gained = support_sets(pair(before, after), seed).gained
        solid = [row.problem_id in gained.solid for row in before]
        naive += bootstrap(solid, seed).low > 0
        corrected += gained.beyond_luck.low > 0
    assert naive >= 15
    assert corrected <= 2


def test_real_gains_survive_the_correction(evaluation) -> None:
    gained = support_sets(pair(evaluation([0] * 128), evaluation([12] * 100 + [0] * 28))).gained
    assert gained.beyond_luck.estimate == pytest.approx(100 / 128, abs=1e-3)
    assert 0.65 < gained.beyond_luck.low < gained.beyond_luck.high < 0.9


def test_nothing_crossed_is_bounded_not_certain(evaluation) -> None:
    rows = evaluation([0] * 64 + [30] * 64)
    sets = support_sets(pair(rows, rows))
    for crossing in (sets.gained, sets.lost):
        assert crossing.ids == ()
        assert crossing.beyond_luck.estimate == 0
        assert crossing.beyond_luck.low == 0
        assert crossing.beyond_luck.high >= zero_success_bound(128)


def test_gained_and_lost_mirror(evaluation) -> None:
    before, after = evaluation([0, 5, 9, 0, 2, 40, 0]), evaluation([8, 0, 9, 0, 0, 2, 50])
    there, back = support_sets(pair(before, after)), support_sets(pair(after, before))
    assert (there.gained, there.lost) == (back.lost, back.gained)
    assert there.coverage_before == back.coverage_after


def test_coverage_counts_distinct_right_answers(evaluation) -> None:
    before, after = evaluation([40] * 8, distinct=4), evaluation([40] * 8, distinct=1)
    sets = support_sets(pair(before, after))
    assert (sets.coverage_before.estimate, sets.coverage_after.estimate) == (4, 1)
    assert sets.coverage_change.estimate == -3


def test_coverage_is_compared_at_equal_samples(evaluation) -> None:
    """The same policy sampled 64 and 8 times finds more answers in 64, which is no change."""
    rows = evaluation([4], n=64, distinct=4)
    row = Evaluation.of(rows)
    assert distinct_right(row, np.array([64.0])) == pytest.approx(4)
    assert distinct_right(row, np.array([16.0])) == pytest.approx(4 * 16 / 64)
    sets = support_sets(pair(rows, evaluation([1], n=16)))
    assert sets.coverage_before.estimate == pytest.approx(1)
    assert sets.coverage_after.estimate == pytest.approx(1)


def test_unscorable_problems_are_left_out_and_counted(evaluation) -> None:
    before = evaluation([3, 0, 4], n=[64, 0, 64])
    after = evaluation([0, 5, 4], n=[0, 64, 64])
    paired = pair(before, after)
    assert paired.before.problem_id_M.tolist() == ["p0002"]
    sets = support_sets(paired)
    assert (sets.problems, sets.unscorable) == (1, 2)
    assert len(paired.in_slice("all").unscorable) == 2
    assert paired.in_slice("other").before.slices == []


def test_no_problems() -> None:
    sets = support_sets(pair([], []))
    assert sets.problems == 0
    assert sets.outside_bound is None
    assert not sets.gained.beyond_luck.known


def test_differing_problems_are_refused(evaluation) -> None:
    with pytest.raises(ContractError, match=r"3 problems \(1 only before, 2 only after\), first 'p0000', only before"):
        pair(evaluation([1, 1]), evaluation([1, 1, 1], first=1))


def test_repeated_problem_is_refused(evaluation) -> None:
    with pytest.raises(ContractError, match="after lists 1 problems more than once, first 'p0001'"):
        pair(evaluation([1, 1]), evaluation([1, 1]) + evaluation([1], first=1))


def test_moved_problem_is_refused(evaluation) -> None:
    with pytest.raises(ContractError, match="slice 'easy' before and 'hard' after"):
        pair(evaluation([1], slice="easy"), evaluation([1], slice="hard"))
