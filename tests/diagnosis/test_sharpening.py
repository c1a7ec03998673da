"""The sharpening tax against the sum that defines it, and against resampling the ratio itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.diagnosis.passk import pass_at_k
from posttrain.diagnosis.sharpening import area, scaled_area, sharpening_tax
from posttrain.errors import ConfigError


def by_the_sum(n, c, k):
    return sum(pass_at_k(n, c, k) - pass_at_k(n, c, each) for each in range(1, k))


def simulated(p_M, n=64, seed=0):
    return np.full(len(p_M), float(n)), np.random.default_rng(seed).binomial(n, p_M).astype(float)


def test_area_is_its_sum_for_every_count() -> None:
    for n in (2, 3, 7, 12):
        counts = np.arange(n + 1.0)
        for k in range(2, n + 1):
            np.testing.assert_allclose(area(np.full(n + 1, n), counts, k), by_the_sum(np.full(n + 1, n), counts, k))


def test_area_is_exact_at_many_samples() -> None:
    n, c = np.full(4, 1024.0), np.array([0.0, 1, 30, 1024])
    np.testing.assert_allclose(area(n, c, 200), by_the_sum(n, c, 200), rtol=1e-10, atol=1e-10)
    assert area(n, c, 512)[[0, 3]].tolist() == [0.0, 0.0]


@given(st.lists(st.integers(2, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1), st.data())
def test_bounds(pairs, data) -> None:
    k = data.draw(st.integers(2, 40))
    n, c = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    area_M = area(n, c, k)
    assert np.isnan(area_M).tolist() == (n < k).tolist()
    known = n >= k
    assert np.all(area_M[known] >= 0)
    assert np.all(area_M[known] <= (k - 1) * (1 - c / n)[known] + 1e-9)
    scaled = scaled_area(n, c, k)
    assert math.isnan(scaled) if not known.any() else -1e-9 <= scaled <= 1 + 1e-9


def test_scaled_area_by_hand_leaves_out_who_has_too_few() -> None:
    n, c = np.array([8.0, 8.0]), np.array([2.0, 5.0])
    by_hand = by_the_sum(n, c, 4).mean() / (3 * (1 - pass_at_k(n, c, 1).mean()))
    assert scaled_area(n, c, 4) == pytest.approx(by_hand)
    assert scaled_area(np.append(n, 3.0), np.append(c, 0.0), 4) == pytest.approx(by_hand)
    assert scaled_area(np.array([8.0]), np.array([8.0]), 4) == 0
    with pytest.raises(ConfigError, match="K = 1"):
        scaled_area(n, c, 1)


def test_a_problem_with_too_few_samples_does_not_spoil_the_tax() -> None:
    p = np.random.default_rng(1).beta(0.5, 1.5, 40)
    (n0, c0), (n1, c1) = simulated(p), simulated(np.round(p), seed=2)
    tax = sharpening_tax((n0, c0), (n1, c1), 32)
    short = sharpening_tax((np.append(n0, 5), np.append(c0, 1)), (np.append(n1, 64), np.append(c1, 60)), 32)
    assert short == tax
    assert tax.scaled.estimate == pytest.approx(scaled_area(n0, c0, 32) - scaled_area(n1, c1, 32))
    assert tax.area.estimate == pytest.approx((area(n0, c0, 32) - area(n1, c1, 32)).mean())
    back = sharpening_tax((n1, c1), (n0, c0), 32)
    assert back.scaled.estimate == pytest.approx(-tax.scaled.estimate)
    assert (back.area.low, back.area.high) == pytest.approx((-tax.area.high, -tax.area.low), rel=0.05)


def test_the_linearised_interval_is_that_of_the_ratio() -> None:
    p = np.random.default_rng(3).beta(0.6, 2.0, 128)
    before, after = simulated(p), simulated(np.clip(p * 1.5, 0, 1), seed=4)
    tax = sharpening_tax(before, after, 32, draws=1000)
    chance = np.random.default_rng(5)
    drawn = []
    for _ in range(1000):
        chosen = chance.integers(128, size=128)
        drawn.append(np.subtract(*(scaled_area(n[chosen], c[chosen], 32) for n, c in (before, after))))
    assert (tax.scaled.low, tax.scaled.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.01)


def test_nobody_is_certain_of_what_never_varied() -> None:
    n, c = np.full(30, 64.0), np.full(30, 64.0)
    tax = sharpening_tax((n, c), (n, c), 32)
    assert tax.scaled.estimate == 0 and tax.scaled.width > 0.1
