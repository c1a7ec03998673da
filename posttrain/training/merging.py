"""Merging policies in weight space, a piece of a tensor at a time: five published formulas.

Written θᵢ for a policy's tensor, θ₀ for their common base's, τᵢ = θᵢ − θ₀ for a task vector, wᵢ for its weight.
Averages (linear, slerp, ties) depend on the weights' ratios alone; sums of task vectors (task_arithmetic, dare) on
their size: there a weight is the scale λ of the paper, and a negative one unlearns a task.

Every function takes any piece of a tensor. What belongs to the whole tensor (the angle of slerp, the bounds of ties)
is gathered from its pieces first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from posttrain.artifacts.digests import digest_value

Floats = NDArray[np.float32]

# Above this cosine the arc is a straight line for all that floats can tell.
_COLINEAR = 0.9995
_CHANCES = 2**16


def linear(policies: Iterable[Floats], weights: Sequence[float]) -> Floats:
    """Σ wᵢθᵢ / Σ wᵢ: a model soup (2203.05482)."""
    total = _weighted_sum(policies, weights)
    total /= np.float32(sum(weights))
    return total


def products(first: Floats, second: Floats) -> NDArray[np.float64]:
    """‖x‖², ‖y‖² and x·y of a piece; their sums over a tensor give its angle."""
    pairs = ((first, first), (second, second), (first, second))
    return np.array([np.dot(one, other) for one, other in pairs], np.float64)


def slerp_shares(whole: NDArray[np.float64], share: float) -> tuple[float, float]:
    """The factors of two tensors at the point at `share` of the arc between them (Shoemake 1985).

    Args:
        whole: the sum of `products` over the tensors, each read as one long vector.
    """
    length, other, together = (float(value) for value in whole)
    if not length or not other:  # a zero vector has no direction
        return 1 - share, share
    cosine = float(np.clip(together / np.sqrt(length * other), -1, 1))
    if abs(cosine) > _COLINEAR:
        return 1 - share, share
    angle = np.arccos(cosine)
    return float(np.sin((1 - share) * angle) / np.sin(angle)), float(np.sin(share * angle) / np.sin(angle))


def task_arithmetic(vectors: Iterable[Floats], weights: Sequence[float]) -> Floats:
    """Σ wᵢτᵢ, to be added to θ₀ (2212.04089)."""
    return _weighted_sum(vectors, weights)


def ties(vectors: Sequence[Floats], weights: Sequence[float], bounds: Sequence[float]) -> Floats:
    """Trim, elect signs, and average what agrees with them (2306.01708, algorithm 1), to be added to θ₀.

    The paper trims a whole model at once, this one tensor after the other, as a stream of tensors must.

    Args:
        vectors: they are overwritten.
        bounds: the magnitude of each vector's smallest kept entry (`bound_of`).
    """
    even, spare = len(set(weights)) == 1, np.empty_like(vectors[0])
    for vector, bound, weight in zip(vectors, bounds, weights, strict=True):
        vector *= np.abs(vector, out=spare) >= np.float32(bound)
        if not even:  # equal weights cancel
            vector *= np.float32(weight)
    elected = vectors[0].copy()
    for vector in vectors[1:]:
        elected += vector
    positive, negative = elected > 0, elected < 0
    total, shares = elected, spare
    total.fill(0)
    shares.fill(np.finfo(np.float32).tiny)  # where nobody agrees, the total is zero, whatever it is divided by
    for vector, weight in zip(vectors, weights, strict=True):
        agrees = ((vector > 0) & positive) | ((vector < 0) & negative)
        vector *= agrees
        total += vector
        shares += agrees if even else np.float32(weight) * agrees
    total /= shares
    return total


def bound_of(magnitudes: Floats, density: float) -> float:
    """The smallest of the share `density` of largest magnitudes. They are reordered."""
    rank = len(magnitudes) - max(1, round(density * len(magnitudes)))
    magnitudes.partition(rank)
    return float(magnitudes[rank])


def dare(vectors: Iterable[Floats], weights: Sequence[float], density: float, draw: Sequence[object]) -> Floats:
    """Drop all but a random share of each task vector and rescale the rest by its inverse (2311.03099, eq. 3 to 5).

    Args:
        density: share that is kept, the paper's 1 − p; a multiple of 2⁻¹⁶ is drawn.
        draw: what the random numbers belong to, as seed, tensor and piece; each vector draws for itself.
    """
    chance = max(1, round(density * _CHANCES))

    def dropped() -> Iterable[Floats]:
        for number, vector in enumerate(vectors):
            random = np.random.SFC64(int(digest_value([*draw, number])[:15], 16))
            # Sixteen bits decide: four times as fast as a float each.
            bits = random.random_raw(-(-len(vector) // 4)).view(np.uint16)[: len(vector)]
            yield vector * (bits < chance) * np.float32(_CHANCES / chance)

    return _weighted_sum(dropped(), weights)


def _weighted_sum(tensors: Iterable[Floats], weights: Sequence[float]) -> Floats:
    terms = (np.float32(weight) * tensor for tensor, weight in zip(tensors, weights, strict=True))
    total = next(terms)
    for term in terms:
        total += term
    return total
