"""Estimators of entropy, KL and importance against distributions small enough to enumerate."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.diagnosis import divergence
from posttrain.errors import DataError

TOKENS, LENGTH = 3, 4
gaps = st.lists(st.floats(-30, 30), min_size=1, max_size=30).map(np.array)


def chains(seed):
    """Two policies whose next token depends on the last one; every completion of LENGTH tokens under both."""
    tables = np.random.default_rng(seed).dirichlet(np.ones(TOKENS), (2, TOKENS + 1))
    completions = list(product(range(TOKENS), repeat=LENGTH))
    steps = [list(zip((TOKENS, *c), c, strict=False)) for c in completions]
    ours, theirs = ([np.array([math.log(table[step]) for step in row]) for row in steps] for table in tables)
    return ours, theirs


@pytest.mark.parametrize("seed", range(4))
def test_every_kl_estimator_is_unbiased_and_the_tokens_one_is_quietest(seed) -> None:
    ours, theirs = chains(seed)
    log_p, log_q = (np.array([row.sum() for row in side]) for side in (ours, theirs))
    p = np.exp(log_p)
    assert p.sum() == pytest.approx(1)
    exact = divergence.exact_kl(log_p, log_q)
    found = {
        "k1": divergence.k1(log_p, log_q),
        "k3": divergence.k3(log_p, log_q),
        "forward": divergence.forward_kl(log_p, log_q),
        "tokens": divergence.sequence_kl(ours, theirs),
    }
    for name, values in found.items():
        assert p @ values == pytest.approx(exact), name
    variance = {name: p @ (values - exact) ** 2 for name, values in found.items()}
    assert variance["tokens"] < variance["k3"]
    assert found["tokens"].min() >= 0


def test_entropy_of_a_chain() -> None:
    ours, _ = chains(7)
    log_p = np.array([row.sum() for row in ours])
    entropy = -(np.exp(log_p) * log_p).sum()
    assert np.exp(log_p) @ divergence.sequence_entropy(log_p) == pytest.approx(entropy)
    per_token = divergence.token_entropy(log_p, np.full(len(log_p), float(LENGTH)))
    assert np.exp(log_p) @ per_token == pytest.approx(entropy / LENGTH)
    assert np.isnan(divergence.token_entropy(np.array([0.0]), np.array([0.0])))[0]


@given(gaps)
def test_k3_is_never_negative_and_zero_where_they_agree(gap) -> None:
    values = divergence.k3(np.zeros(len(gap)), gap)
    assert np.all(values >= 0)
    near = np.abs(gap) < 1e-3
    np.testing.assert_allclose(values[near], gap[near] ** 2 / 2, rtol=1e-2, atol=1e-12)


def test_exact_kl_of_masked_vocabularies_and_any_shape() -> None:
    p, q = np.log([[0.5, 0.5], [0.25, 0.75]]), np.log([[0.25, 0.75], [0.5, 0.5]])
    expected = [0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.25 * math.log(0.5) + 0.75 * math.log(1.5)]
    assert divergence.exact_kl(p, q) == pytest.approx(expected)
    assert divergence.exact_kl(p[None], q[None]).shape == (1, 2)
    hidden = np.array([-np.inf])
    assert divergence.exact_kl(np.append(p[0], hidden), np.append(q[0], hidden)) == pytest.approx(expected[0])
    assert divergence.exact_kl(np.log([0.5, 0.5]), np.append(np.log([1.0]), hidden)) == math.inf


@given(gaps, st.floats(-5, 5))
def test_mismatch_by_its_definitions(gap, shift) -> None:
    sampler = -np.arange(1.0, len(gap) + 1)
    found = divergence.mismatch(sampler + gap, sampler)
    weights = np.exp(gap)
    assert found.mean == pytest.approx(np.abs(gap).mean(), abs=1e-9)
    assert found.largest == pytest.approx(np.abs(gap).max(), abs=1e-9)
    assert found.ratio == pytest.approx(weights.mean())
    assert found.effective_share == pytest.approx(weights.sum() ** 2 / (weights**2).sum() / len(gap))
    assert 1 / len(gap) - 1e-9 <= found.effective_share <= 1 + 1e-9
    moved = divergence.mismatch(sampler + gap + shift, sampler)  # a constant factor of all weights
    assert moved.effective_share == pytest.approx(found.effective_share)


def test_importance_weights_of_exact_samples_average_to_one() -> None:
    ours, theirs = chains(2)
    p = np.exp([row.sum() for row in theirs])
    drawn = np.random.default_rng(0).choice(len(p), 100_000, p=p)
    learner, sampler = [ours[i] for i in drawn], [theirs[i] for i in drawn]
    whole = divergence.sequence_mismatch(learner, sampler)
    tokens = divergence.mismatch(np.concatenate(learner), np.concatenate(sampler))
    assert whole.ratio == pytest.approx(1, abs=0.05) and tokens.ratio == pytest.approx(1, abs=0.05)
    assert whole.effective_share < tokens.effective_share  # ratios multiply along a completion


def test_ratios_too_large_for_a_float_leave_one_effective_sample() -> None:
    found = divergence.mismatch(np.array([0.0, 0.0]), np.array([-900.0, 0.0]))
    assert found.effective_share == pytest.approx(0.5) and found.ratio == math.inf


def test_what_does_not_pair_is_named() -> None:
    with pytest.raises(DataError, match="0 values"):
        divergence.mismatch(np.zeros(0), np.zeros(0))
    with pytest.raises(DataError, match="completion 1: 3 tokens on one side, 2"):
        divergence.sequence_kl([np.zeros(1), np.zeros(3)], [np.zeros(1), np.zeros(2)])
    with pytest.raises(DataError, match="1 completions on one side, 2"):
        divergence.sequence_mismatch([np.zeros(1)], [np.zeros(1), np.zeros(2)])
