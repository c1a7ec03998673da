"""The estimators against enumeration of every subset, and their unbiasedness over every binomial outcome."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.diagnosis.passk import informative_rate, ladder, largest_k, pass_at_k, pass_hat_k, usual_samples
from posttrain.errors import ConfigError, DataError

CASES = [(n, c, k) for n in range(1, 8) for c in range(n + 1) for k in range(1, n + 1)]

problems = st.lists(
    st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1, max_size=8
)


def columns(pairs: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [n for n, _ in pairs], [c for _, c in pairs]


@pytest.mark.parametrize(
    ("estimator", "holds"),
    [
        (pass_at_k, any),
        (pass_hat_k, all),
        (informative_rate, lambda subset: any(subset) and not all(subset)),
    ],
)
def test_equals_the_share_of_subsets(estimator, holds) -> None:
    for n, c, k in CASES:
        subsets = list(combinations([True] * c + [False] * (n - c), k))
        expected = sum(map(holds, subsets)) / len(subsets)
        assert estimator([n], [c], k)[0] == pytest.approx(expected, abs=1e-12), (n, c, k)


@pytest.mark.parametrize(
    ("estimator", "truth"),
    [
        (pass_at_k, lambda p, k: 1 - (1 - p) ** k),
        (pass_hat_k, lambda p, k: p**k),
        (informative_rate, lambda p, k: 1 - p**k - (1 - p) ** k),
    ],
)
@pytest.mark.parametrize("p", [0.0, 0.02, 0.3, 0.5, 0.97, 1.0])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 1), (5, 5), (12, 4), (16, 8), (64, 32)])
def test_unbiased(estimator, truth, p: float, n: int, k: int) -> None:
    counts = np.arange(n + 1)
    weights = np.array([math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in counts])
    expectation = weights @ estimator(np.full(n + 1, n), counts, k)
    assert expectation == pytest.approx(truth(p, k), abs=1e-9)


def test_the_plug_in_estimate_would_be_biased() -> None:
    assert pass_at_k([10], [1], 5)[0] == 0.5
    assert pytest.approx(0.40951) == 1 - (1 - 1 / 10) ** 5


@given(problems, st.integers(1, 59))
def test_monotone_in_k_and_ordered(pairs, k: int) -> None:
    n, c = columns(pairs)
    enough = np.array(n) > k
    at_k, at_next = pass_at_k(n, c, k)[enough], pass_at_k(n, c, k + 1)[enough]
    all_k, all_next = pass_hat_k(n, c, k)[enough], pass_hat_k(n, c, k + 1)[enough]
    first = pass_at_k(n, c, 1)[enough]
    assert np.all(at_k <= at_next + 1e-12)
    assert np.all(all_k >= all_next - 1e-12)
    assert np.all(all_k <= first + 1e-12)
    assert np.all(first <= at_k + 1e-12)


@given(problems, st.integers(1, 60))
def test_informative_rate_is_the_gap_between_both(pairs, group: int) -> None:
    n, c = columns(pairs)
    rate = informative_rate(n, c, group)
    known = rate[~np.isnan(rate)]
    assert np.all((known >= 0) & (known <= 1))
    np.testing.assert_allclose(rate, pass_at_k(n, c, group) - pass_hat_k(n, c, group), atol=1e-12)
    wrong_for_right = informative_rate(n, np.array(n) - np.array(c), group)
    np.testing.assert_allclose(rate, wrong_for_right, atol=1e-12)


@given(problems, st.integers(1, 60), st.randoms())
def test_each_problem_stands_alone(pairs, k: int, random) -> None:
    shuffled = random.sample(pairs, len(pairs))
    ours = dict(zip(pairs, pass_at_k(*columns(pairs), k), strict=True))
    for pair, value in zip(shuffled, pass_at_k(*columns(shuffled), k), strict=True):
        np.testing.assert_equal(value, ours[pair])


def test_too_few_samples_are_nan_for_that_problem_only() -> None:
    for estimator in (pass_at_k, pass_hat_k, informative_rate):
        values = estimator([0, 1, 3, 4, 8], [0, 1, 0, 4, 4], 4)
        assert np.isnan(values).tolist() == [True, True, True, False, False]


def test_all_right_and_all_wrong_are_exact() -> None:
    n = [1024, 1024]
    assert pass_at_k(n, [1024, 0], 512).tolist() == [1.0, 0.0]
    assert pass_hat_k(n, [1024, 0], 512).tolist() == [1.0, 0.0]
    assert informative_rate(n, [1024, 0], 512).tolist() == [0.0, 0.0]


def test_stable_where_the_binomials_overflow() -> None:
    n, c, k = 4096, 3, 1024
    with pytest.raises(OverflowError):
        float(math.comb(n, k))
    exact = 1 - math.comb(n - c, k) / math.comb(n, k)
    assert pass_at_k([n], [c], k)[0] == pytest.approx(exact, rel=1e-12)


def test_no_problems() -> None:
    assert pass_at_k([], [], 3).shape == (0,)


@pytest.mark.parametrize("estimator", [pass_at_k, pass_hat_k, informative_rate])
def test_bad_input_is_named(estimator) -> None:
    with pytest.raises(ConfigError, match="k = 0"):
        estimator([4], [1], 0)
    with pytest.raises(DataError, match="problem 1: 5 correct of 4"):
        estimator([4, 4], [1, 5], 1)
    with pytest.raises(DataError, match="problem 0: -1 correct"):
        estimator([4], [-1], 1)
    with pytest.raises(DataError, match="one number a problem"):
        estimator([4, 4], [1], 1)


@pytest.mark.parametrize(
    ("samples", "ks"),
    [(0, (1,)), (1, (1,)), (2, (1, 2)), (3, (1, 3)), (8, (1, 2, 4, 8)), (100, (1, 2, 4, 8, 16, 32, 50, 100))],
)
def test_ladder(samples: int, ks: tuple[int, ...]) -> None:
    assert ladder(samples) == ks
    assert largest_k(samples) in ks


@settings(max_examples=30)
@given(st.lists(st.integers(0, 70), max_size=30))
def test_nine_in_ten_have_the_usual_samples(scored: list[int]) -> None:
    usual = usual_samples(np.array(scored, dtype=float))
    usable = [n for n in scored if n]
    assert sum(n >= usual for n in usable) >= 0.9 * len(usable)
    assert usual in usable or (usual == 0 and not usable)
