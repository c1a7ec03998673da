"""Intervals: known values, coverage, pairing, and honesty where nothing varied."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.diagnosis.intervals import (
    DIFFERENCE,
    Interval,
    bootstrap,
    bootstrap_columns,
    paired_difference,
    share,
    short,
    zero_success_bound,
)
from posttrain.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.2171, ".217"),
        (-0.047, "-.047"),
        (0.0, ".000"),
        (-0.0001, ".000"),
        (0.9997, "1.000"),
        (1.0, "1.000"),
        (-1.0, "-1.000"),
        (10.04, "10.0"),
        (153.24, "153.2"),
        (math.inf, "inf"),
        (math.nan, "n/a"),
    ],
)
def test_short(value: float, text: str) -> None:
    assert short(value) == text


def test_prints_as_in_a_table() -> None:
    assert str(Interval(0.217, 0.202, 0.233)) == ".217 [.202, .233]"
    assert str(Interval(math.nan, math.nan, math.nan)) == "n/a"


def test_agrees_with_the_exact_binomial_quantiles() -> None:
    """Resampled means of 0/1 values are binomial: 122 of 128 gives .953 [.914, .984], as measured on real rollouts."""
    interval = bootstrap([1] * 122 + [0] * 6, seed=0, draws=20_000)
    p = 122 / 128
    chances = np.cumsum([math.comb(128, c) * p**c * (1 - p) ** (128 - c) for c in range(129)])
    low, high = (np.searchsorted(chances, tail) / 128 for tail in (0.025, 0.975))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1 / 128)
    assert str(bootstrap([1] * 122 + [0] * 6, seed=0)) == ".953 [.914, .984]"


def test_agrees_with_every_resample_of_six_values() -> None:
    values = np.array([0.0, 0.1, 0.2, 0.5, 0.7, 1.0])
    every = np.array([np.mean(draw) for draw in product(values, repeat=6)])
    interval = bootstrap(values, seed=1, draws=50_000)
    assert (interval.low, interval.high) == pytest.approx(np.quantile(every, [0.025, 0.975]), abs=0.02)
    wider = bootstrap(values, seed=1, draws=5_000, level=0.99)
    assert wider.low < interval.low < interval.high < wider.high


def test_coverage() -> None:
    """95% intervals of a skewed rate, 60 problems: between 90% and 99% must hold the truth."""
    rng = np.random.default_rng(7)
    intervals = [bootstrap(rng.beta(1, 4, 60), seed=i, draws=400) for i in range(300)]
    held = np.mean([interval.low <= 0.2 <= interval.high for interval in intervals])
    assert 0.90 <= held <= 0.99


def test_coverage_with_few_problems() -> None:
    """Four problems: the range-based bounds hold more than 90% where a percentile bootstrap would hold about 80%."""
    rng = np.random.default_rng(7)
    intervals = [bootstrap(rng.beta(1, 4, 4), seed=0) for _ in range(300)]
    assert np.mean([interval.low <= 0.2 <= interval.high for interval in intervals]) > 0.9


def test_same_seed_same_draws_for_all_columns_and_calls() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(50)
    first, second = bootstrap_columns(np.column_stack([values, values]), seed=3)
    assert first == second
    alone = bootstrap(values, seed=3)
    assert (alone.low, alone.high) == pytest.approx((first.low, first.high))
    assert bootstrap(values, seed=4) != alone


def test_pairing_removes_what_the_problems_share() -> None:
    rng = np.random.default_rng(0)
    before_M = rng.random(100) * 0.9
    after_M = before_M + rng.uniform(0.03, 0.07, 100)
    delta = paired_difference(before_M[:, None], after_M[:, None], seed=0)[0]
    assert 0.04 < delta.low < delta.high < 0.06
    assert bootstrap(before_M, seed=0).width > 0.08


def test_paired_difference_mirrors() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.random((40, 2)), rng.random((40, 2))
    for there, back in zip(paired_difference(before, after, 5), paired_difference(after, before, 5), strict=True):
        assert (there.estimate, there.low, there.high) == pytest.approx((-back.estimate, -back.high, -back.low))


@pytest.mark.parametrize(("n", "bound"), [(64, 0.0457), (128, 0.0231), (256, 0.0116), (1024, 0.00292)])
def test_zero_success_bound(n: int, bound: float) -> None:
    assert zero_success_bound(n) == pytest.approx(bound, abs=5e-5)
    assert (1 - zero_success_bound(n)) ** n == pytest.approx(0.05)


def test_zero_success_bound_without_trials() -> None:
    assert zero_success_bound(0) == 1.0


@pytest.mark.parametrize("problems", [1, 2, 5, 128])
def test_constant_values_are_not_certain(problems: int) -> None:
    unseen = zero_success_bound(problems)
    none, every = bootstrap(np.zeros(problems), seed=0), bootstrap(np.ones(problems), seed=0)
    assert (none.low, none.high) == pytest.approx((0, unseen))
    assert (every.low, every.high) == pytest.approx((1 - unseen, 1))
    unchanged = bootstrap(np.zeros(problems), seed=0, bounds=DIFFERENCE)
    assert (unchanged.low, unchanged.high) == pytest.approx((-unseen, unseen))


def test_few_unbounded_values_say_nothing() -> None:
    assert bootstrap([6.0], seed=0, bounds=None) == Interval(6.0, -math.inf, math.inf)
    assert bootstrap([6.0] * 10, seed=0, bounds=None) == Interval(6.0, 6.0, 6.0)


def test_nan_is_left_out_of_its_column() -> None:
    values = np.array([[0.0, np.nan], [0.2, np.nan], [np.nan, np.nan], *[[0.4, np.nan]] * 10])
    present, absent = bootstrap_columns(values, seed=0)
    assert present.estimate == pytest.approx(4.2 / 12)
    assert present.low < present.estimate < present.high
    assert not absent.known
    assert str(absent) == "n/a"


def test_half_the_problems_nan_is_like_half_the_problems() -> None:
    present = np.random.default_rng(0).random(100)
    with_gaps = bootstrap(np.column_stack([present, np.full(100, np.nan)]).ravel(), seed=0)
    assert with_gaps.estimate == pytest.approx(present.mean())
    without = bootstrap(present, seed=0)
    assert (with_gaps.low, with_gaps.high) == pytest.approx((without.low, without.high), abs=0.01)


def test_no_problems() -> None:
    assert not bootstrap([], seed=0).known
    assert not bootstrap_columns(np.zeros((0, 2)), seed=0)[1].known


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigError, match="draws = 0"):
        bootstrap([0.5], seed=0, draws=0)
    with pytest.raises(DataError, match="one row a problem"):
        bootstrap_columns([0.5], seed=0)
    with pytest.raises(DataError, match="3 of 2"):
        share(3, 2)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(1, 10, 0.0179, 0.4042), (5, 10, 0.2366, 0.7634), (50, 100, 0.4038, 0.5962), (3, 128, 0.0080, 0.0667)],
)
def test_wilson(successes: int, trials: int, low: float, high: float) -> None:
    interval = share(successes, trials)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)


@settings(max_examples=50)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_shares_solve_the_score_equation(case: tuple[int, int]) -> None:
    successes, n = case
    interval = share(successes, n)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    if 0 < successes < n:
        for end in (interval.low, interval.high):
            assert abs(interval.estimate - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-5)
    mirrored = share(n - successes, n)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - interval.high, 1 - interval.low))


def test_share_of_nothing() -> None:
    assert not share(0, 0).known
