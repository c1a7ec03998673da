"""Forgetting on anchors: what changed, what luck explains, and how often the test cries wolf."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.diagnosis.forgetting import attrition, fell, forgetting, rate_change
from posttrain.diagnosis.support import pair, support_sets
from posttrain.diagnosis.teachers import teacher_gap, teacher_novelty, transfer_bound

counts = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=12)


def measured(p_M, seed, n=64):
    return np.full(len(p_M), float(n)), np.random.default_rng(seed).binomial(n, p_M).astype(float)


def test_by_hand() -> None:
    n = np.full(4, 10.0)
    found = forgetting((n, np.array([10.0, 5, 5, 0])), (n, np.array([10.0, 0, 5, 5])), k=2)
    assert found.pass_1.estimate == pytest.approx(0.0)
    gone = 1 - math.comb(5, 2) / math.comb(10, 2)
    assert rate_change((n[:1], np.array([5.0])), (n[:1], np.array([0.0])), 2)[0] == pytest.approx(-gone)
    assert found.attrition.estimate == 0.25
    assert not found.significant


def test_attrition_is_the_solid_loss_of_the_support_sets(evaluation) -> None:
    before, after = [1, 2, 3, 40, 0, 64], [0, 0, 0, 0, 9, 64]
    n = np.full(6, 64.0)
    lost = support_sets(pair(evaluation(before), evaluation(after))).lost.solid
    found = attrition((n, np.array(before, dtype=float)), (n, np.array(after, dtype=float)))
    assert [f"p{i:04d}" for i in np.flatnonzero(found)] == list(lost) == ["p0002", "p0003"]


@given(counts)
def test_what_one_side_lost_the_other_could_teach(pairs) -> None:
    n = np.full(len(pairs), 12.0)
    c0, c1 = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    lost, gained = attrition((n, c0), (n, c1)), teacher_novelty(n, c0, n, c1)
    assert not (lost * gained).any()
    np.testing.assert_array_equal(lost > 0, (c1 == 0) & ((1 - c0 / 12) ** 12 < 0.05))
    np.testing.assert_allclose(teacher_gap(n, c0, n, c1), rate_change((n, c0), (n, c1), 1), atol=1e-12)


def test_unmeasured_problems_are_unknown() -> None:
    one, none = (np.array([4.0, 0.0]), np.array([4.0, 0.0])), (np.array([4.0, 4.0]), np.array([0.0, 0.0]))
    assert attrition(one, none)[0] == 1 and np.isnan(attrition(one, none)[1])
    assert np.isnan(teacher_gap(*none, *one)[1])


@pytest.mark.parametrize("n", [8, 64])
def test_false_alarms_are_as_rare_as_two_standard_errors_say(n) -> None:
    alarms = 0
    for seed in range(600):
        p = np.random.default_rng(seed).beta(1, 1, 40)
        alarms += fell(rate_change(measured(p, 2 * seed + 10_000, n), measured(p, 2 * seed + 10_001, n), 1))
    assert alarms / 600 < 0.045  # .023 by the normal law; three standard errors of 600 above


def test_a_real_loss_is_seen_and_few_anchors_prove_nothing() -> None:
    p = np.random.default_rng(0).beta(2, 2, 100)
    assert forgetting(measured(p, 1), measured(p * 0.9, 2), k=8).significant
    assert not forgetting(measured(p, 1), measured(np.minimum(p * 1.1, 1), 2), k=8).significant
    assert not fell(np.full(5, -0.5))
    assert fell(np.full(6, -0.5))
    assert fell(np.array([-0.5] * 6 + [math.nan]))


def test_the_transfer_bound_holds_for_every_pair_of_distributions() -> None:
    chance = np.random.default_rng(0)
    for student, teacher in chance.dirichlet(np.full(5, 0.5), (500, 2)):
        divergence = float((student * np.log(student / teacher)).sum())
        for right in ([0], [0, 1], [2, 3, 4]):
            assert student[right].sum() >= transfer_bound(float(teacher[right].sum()), divergence) - 1e-12
    assert transfer_bound(0.7, 0.0) == 0.7 and transfer_bound(0.7, -0.01) == 0.7
