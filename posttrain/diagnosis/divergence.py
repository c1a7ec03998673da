"""Entropy and divergence from log-probabilities, in nats. Suffixes: N sample or token, V vocabulary.

`k1`, `k3` and `mismatch` take token log-probabilities, or their sums over each completion for the sequence's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from posttrain.diagnosis.passk import Floats
from posttrain.errors import DataError


def sequence_entropy(logprobs_N: Floats) -> Floats:
    """-log π(y) of each sample of π: its mean is unbiased for H(π), nats a completion. Shape (N,)."""
    return -logprobs_N


def token_entropy(logprobs_N: Floats, tokens_N: Floats) -> Floats:
    """-log π(y) / T of each sample of π: nats a token. Shape (N,).

    Args:
        logprobs_N: log π of each completion (or of a problem's completions together). Shape (N,).
        tokens_N: how many tokens that is; NaN comes back where it is 0. Shape (N,).
    """
    return np.divide(-logprobs_N, tokens_N, out=np.full(len(logprobs_N), np.nan), where=tokens_N > 0)


def k1(logprobs_N: Floats, reference_N: Floats) -> Floats:
    """log π - log π_ref on samples of π: unbiased for KL(π ‖ π_ref), may be negative. Shape (N,)."""
    return logprobs_N - reference_N


def k3(logprobs_N: Floats, reference_N: Floats) -> Floats:
    """r - 1 - log r with r = π_ref / π on samples of π: unbiased for KL(π ‖ π_ref), never negative. Shape (N,).

    Schulman, "Approximating KL divergence" (2020). Less noisy than `k1` where the two are near; far apart r is rare and
    huge, so for whole completions take `sequence_kl`.
    """
    log_ratio_N = reference_N - logprobs_N
    return np.maximum(np.expm1(log_ratio_N) - log_ratio_N, 0.0)  # rounding may leave -1e-17


def sequence_kl(logprobs: Sequence[Floats], reference: Sequence[Floats]) -> Floats:
    """KL(π ‖ π_ref) of whole completions: `k3` of each token, summed over the completion. Shape (N,).

    Unbiased, since every token's estimate is, given those before it; and of lower variance than `k3` of the summed
    log-probabilities.

    Args:
        logprobs: of each completion sampled from π, log π of each of its tokens.
        reference: log π_ref of the same tokens.

    Raises:
        DataError: a completion's two arrays differ in length.
    """
    _refuse_unequal(logprobs, reference)
    return np.array([k3(ours, theirs).sum() for ours, theirs in zip(logprobs, reference, strict=True)])


def exact_kl(logprobs: Floats, reference: Floats) -> Floats:
    """Σ_a π(a) (log π(a) - log π_ref(a)) of whole next-token distributions. Shapes (..., V), (..., V) → (...,).

    Infinite where π has mass and π_ref has none; actions that both exclude (log-probability -inf) add nothing.
    """
    possible = logprobs > -np.inf
    gap = np.subtract(logprobs, reference, out=np.zeros_like(logprobs), where=possible)
    return (np.exp(logprobs) * gap).sum(-1)


def forward_kl(original_N: Floats, learner_N: Floats) -> Floats:
    """KL(π0 ‖ π) on samples of π0, the policy before: predicts forgetting (RL's Razor, 2509.04259). Shape (N,).

    Args:
        original_N: log π0 of its own samples.
        learner_N: log π of the same samples.
    """
    return k3(original_N, learner_N)


class Mismatch(NamedTuple):
    """How far apart sampler and learner are on the same tokens (or completions)."""

    mean: float  # of |log π_learner - log π_sampler|, nats a token (or completion)
    largest: float
    ratio: float  # mean importance ratio; 1 in expectation
    effective_share: float  # effective sample size (Σ w)² / Σ w², as a share of N: 1 if they agree, at least 1 / N


def mismatch(learner_N: Floats, sampler_N: Floats) -> Mismatch:
    """Train–sampler mismatch from token log-probabilities (truncated importance sampling notes; 2605.14220).

    Raises:
        DataError: there are none, or the two differ in number.
    """
    if len(learner_N) != len(sampler_N) or not len(learner_N):
        raise DataError(
            f"{len(learner_N)} values of the learner, {len(sampler_N)} of the sampler; give both for the same tokens"
        )
    difference_N = learner_N - sampler_N
    # Scaled by the largest weight, which cancels in the share: a completion's ratio may overflow.
    weights_N = np.exp(difference_N - difference_N.max())
    with np.errstate(over="ignore"):
        ratio = float(np.exp(difference_N.max()) * weights_N.mean())
    share = float(weights_N.sum() ** 2 / (weights_N**2).sum() / len(weights_N))
    return Mismatch(float(np.abs(difference_N).mean()), float(np.abs(difference_N).max()), ratio, share)


def sequence_mismatch(learner: Sequence[Floats], sampler: Sequence[Floats]) -> Mismatch:
    """`mismatch` of whole completions, whose ratio is the product of its tokens' ratios: what unbiased weights need.

    Args:
        learner: of each completion, log π_learner of each of its tokens.
        sampler: log π_sampler of the same tokens.

    Raises:
        DataError: there are none, or a completion's two arrays differ in length.
    """
    _refuse_unequal(learner, sampler)
    return mismatch(np.array([row.sum() for row in learner]), np.array([row.sum() for row in sampler]))


def _refuse_unequal(first: Sequence[Floats], second: Sequence[Floats]) -> None:
    if len(first) != len(second):
        raise DataError(f"{len(first)} completions on one side, {len(second)} on the other; score the same ones")
    for index, (ours, theirs) in enumerate(zip(first, second, strict=True)):
        if len(ours) != len(theirs):
            raise DataError(
                f"completion {index}: {len(ours)} tokens on one side, {len(theirs)} on the other; score the same tokens"
            )
