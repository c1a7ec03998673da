"""Gold curves: their peaks, their fit, and whether a run is past its peak."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.diagnosis.hacking import (
    GoldCurve,
    Optimiser,
    best_of_n_distance,
    fit_gold,
    past_the_peak,
    proxy_gold_correlation,
)
from posttrain.errors import ConfigError, DataError

BOTH = pytest.mark.parametrize("optimiser", Optimiser)


@BOTH
def test_curve_peak_and_fit(optimiser) -> None:
    curve = GoldCurve(1.3, 0.6, optimiser)
    d = np.linspace(0, 2 * curve.peak, 100_001)
    assert d[curve.gold(d).argmax()] == pytest.approx(curve.peak, abs=1e-3)
    by_hand = {Optimiser.RL: 2 * (1.3 - 0.6 * math.log(2)), Optimiser.BEST_OF_N: 2 * (1.3 - 0.6 * 2)}
    assert curve.gold(np.array([0.0, 2.0])).tolist() == pytest.approx([0, by_hand[optimiser]])
    few = np.array([0.0, 0.4, 1.0, 2.5])
    found = fit_gold(few, curve.gold(few), optimiser)
    assert (found.alpha, found.beta) == pytest.approx((1.3, 0.6))
    assert GoldCurve(1.3, 0.0, optimiser).peak == math.inf


@BOTH
@given(st.floats(0.1, 5), st.floats(0.05, 3))
def test_the_fit_scales_with_the_gold_score(optimiser, alpha, beta) -> None:
    d = np.array([0.5, 1.0, 2.0, 4.0])
    noisy = GoldCurve(alpha, beta, optimiser).gold(d) + np.array([0.1, -0.05, 0.02, -0.1])
    once, twice = fit_gold(d, noisy, optimiser), fit_gold(d, 2 * noisy, optimiser)
    assert (twice.alpha, twice.beta) == pytest.approx((2 * once.alpha, 2 * once.beta))
    assert twice.peak == pytest.approx(once.peak)


@BOTH
@pytest.mark.parametrize(("reach", "past"), [(3.0, True), (0.4, False), (1.0, None)])
def test_past_the_peak_is_said_only_where_the_points_settle_it(optimiser, reach, past) -> None:
    curve = GoldCurve(1.0, 0.5, optimiser)
    d = np.linspace(0.1, 1, 24) * reach * curve.peak
    gold = curve.gold(d) + np.random.default_rng(1).normal(0, 0.02 * curve.gold(np.array(curve.peak)), 24)
    found = past_the_peak(d, gold, optimiser)
    assert found.past is past
    assert found.peak.low <= found.peak.estimate <= found.peak.high
    assert found.curve == fit_gold(d, gold, optimiser)


def test_a_gold_score_that_only_rises_has_no_peak() -> None:
    d = np.linspace(0.2, 4, 20)
    found = past_the_peak(d, d**1.5)
    assert found.past is False and found.peak.low == math.inf


def test_the_peaks_interval_covers() -> None:
    curve, d = GoldCurve(1.0, 0.5), np.linspace(0.3, 4, 12)
    covered = 0
    for seed in range(200):
        noise = np.random.default_rng(seed).normal(0, 0.05, 12)
        peak = past_the_peak(d, curve.gold(d) + noise, seed=seed, draws=300).peak
        covered += peak.low <= curve.peak <= peak.high
    assert covered / 200 > 0.88


def test_what_the_curve_needs_is_named() -> None:
    with pytest.raises(DataError, match="2 points at 2 distances above 0; measure the gold score at 3"):
        past_the_peak(np.array([0.0, 1, 2]), np.zeros(3))
    with pytest.raises(DataError, match="3 points at 1 distances"):
        fit_gold(np.ones(3), np.zeros(3))


@pytest.mark.parametrize("n", [1, 2, 16])
def test_distance_of_best_of_n_is_that_of_the_largest_of_n_ranks(n) -> None:
    ranks = 200_000
    p = np.diff((np.arange(ranks + 1) / ranks) ** n)
    assert best_of_n_distance(n) ** 2 == pytest.approx((p * np.log(np.maximum(p, 1e-300) * ranks)).sum(), abs=1e-4)


def test_best_of_none() -> None:
    with pytest.raises(ConfigError, match="n = 0"):
        best_of_n_distance(0)


def test_correlation() -> None:
    chance = np.random.default_rng(0)
    gold = chance.normal(size=20_000)
    proxy = 0.6 * gold + 0.8 * chance.normal(size=20_000)
    found = proxy_gold_correlation(proxy, gold)
    assert found == pytest.approx(0.6, abs=0.02)
    assert proxy_gold_correlation(-3 * proxy + 1, gold) == pytest.approx(-found)
    assert math.isnan(proxy_gold_correlation(np.ones(3), gold[:3]))
    with pytest.raises(DataError, match="1 proxy scores, 2 gold"):
        proxy_gold_correlation(np.ones(1), np.ones(2))
