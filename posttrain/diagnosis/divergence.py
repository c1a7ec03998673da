"""Entropy and divergence from log-probabilities. Suffixes: N sample, V vocabulary.

`log π` and the like are summed over a completion's tokens unless said otherwise, in nats.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from posttrain.diagnosis.passk import Floats


def sequence_entropy(logprobs_N: Floats) -> float:
    """H(π) = -E log π(y), estimated from samples of π; unbiased."""
    return float(-np.mean(logprobs_N))


def k1(logprobs_N: Floats, reference_N: Floats) -> Floats:
    """log π - log π_ref on samples of π: unbiased for KL(π ‖ π_ref), may be negative. Shape (N,)."""
    return logprobs_N - reference_N


def k3(logprobs_N: Floats, reference_N: Floats) -> Floats:
    """r - 1 - log r with r = π_ref / π on samples of π: unbiased for KL(π ‖ π_ref), never negative. Shape (N,).

    Schulman, "Approximating KL divergence" (2020).
    """
    log_ratio_N = reference_N - logprobs_N
    return np.expm1(log_ratio_N) - log_ratio_N


def exact_kl(logprobs_NV: Floats, reference_NV: Floats) -> Floats:
    """Σ_a π(a) (log π(a) - log π_ref(a)) of whole next-token distributions. Shapes (N, V), (N, V) → (N,)."""
    p_NV = np.exp(logprobs_NV)
    terms_NV = np.where(p_NV > 0, p_NV * (logprobs_NV - reference_NV), 0.0)
    return terms_NV.sum(-1)


def forward_kl(original_N: Floats, learner_N: Floats) -> Floats:
    """KL(π0 ‖ π) on samples of π0, the policy before: predicts forgetting (RL's Razor, 2509.04259). Shape (N,).

    Args:
        original_N: log π0 of its own samples.
        learner_N: log π of the same samples.
    """
    return k3(original_N, learner_N)


class Mismatch(NamedTuple):
    """How far apart sampler and learner are on the same tokens."""

    mean: float  # of |log π_learner - log π_sampler|, nats a token
    largest: float
    ratio: float  # mean importance ratio; 1 if they agree
    effective_share: float  # (Σ w)² / (N Σ w²), 1 if they agree


def mismatch(learner_N: Floats, sampler_N: Floats) -> Mismatch:
    """Train–sampler mismatch from token log-probabilities (truncated importance sampling notes; 2605.14220)."""
    difference_N = learner_N - sampler_N
    weights_N = np.exp(difference_N)
    share = float(weights_N.sum() ** 2 / (len(weights_N) * (weights_N**2).sum()))
    return Mismatch(
        float(np.abs(difference_N).mean()), float(np.abs(difference_N).max()), float(weights_N.mean()), share
    )
