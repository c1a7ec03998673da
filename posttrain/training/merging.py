"""Merging policies in weight space, one tensor at a time: five published formulas.

Written θᵢ for a policy's tensor, θ₀ for their common base's, τᵢ = θᵢ − θ₀ for a task vector, wᵢ for its weight.
Averages (linear, slerp, ties) depend on the weights' ratios alone; sums of task vectors (task_arithmetic, dare) on
their size: there a weight is the scale λ of the paper, and a negative one unlearns a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from posttrain.artifacts.digests import digest_value

# Above this cosine the arc is a straight line for all that floats can tell.
_COLINEAR = 0.9995


def linear(policies: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ wᵢθᵢ / Σ wᵢ: a model soup (2203.05482)."""
    return _weighted_sum(policies, weights) / sum(weights)


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """The point at `share` of the arc from one tensor to another, each read as one long vector (Shoemake 1985)."""
    cosine = torch.nn.functional.cosine_similarity(first.reshape(-1), second.reshape(-1), dim=0).clamp(-1, 1)
    if cosine.abs() > _COLINEAR or not first.any() or not second.any():  # a zero vector has no direction
        return torch.lerp(first, second, share)
    angle = torch.arccos(cosine)
    return (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * second) / torch.sin(angle)


def task_arithmetic(vectors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ wᵢτᵢ, to be added to θ₀ (2212.04089)."""
    return _weighted_sum(vectors, weights)


def ties(vectors: Sequence[Tensor], weights: Sequence[float], density: float) -> Tensor:
    """Trim, elect signs, and average what agrees with them (2306.01708, algorithm 1), to be added to θ₀.

    The paper trims a whole model at once, this one tensor after the other, as a stream of tensors must.

    Args:
        density: share of each task vector that is kept, the largest by magnitude.
    """
    trimmed = [_largest(vector, density) for vector in vectors]
    elected = _weighted_sum(trimmed, weights).sign()
    total, weight = torch.zeros_like(elected), torch.zeros_like(elected)
    for vector, own in zip(trimmed, weights, strict=True):
        agrees = (vector.sign() == elected) & (vector != 0)
        total += own * vector * agrees
        weight += own * agrees
    return torch.where(weight > 0, total / weight, 0)


def dare(vectors: Iterable[Tensor], weights: Sequence[float], density: float, seed: int, name: str) -> Tensor:
    """Drop all but a random share of each task vector and rescale the rest by its inverse (2311.03099, eq. 3 to 5).

    Args:
        density: share that is kept, the paper's 1 − p.
        name: the tensor's name: each draws for itself, so the order of tensors in the files does not matter.
    """

    def dropped() -> Iterable[Tensor]:
        for number, vector in enumerate(vectors):
            random = torch.Generator().manual_seed(int(digest_value([seed, name, number])[:15], 16))
            yield vector * (torch.rand(vector.shape, generator=random) < density) / density

    return _weighted_sum(dropped(), weights)


def _weighted_sum(tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    terms = (weight * tensor for tensor, weight in zip(tensors, weights, strict=True))
    total = next(terms)
    for term in terms:
        total += term
    return total


def _largest(vector: Tensor, density: float) -> Tensor:
    """The vector with all but its largest entries zero; entries as large as the smallest kept one stay too."""
    kept = max(1, round(density * vector.numel()))
    if kept >= vector.numel():
        return vector
    magnitude = vector.abs()
    bound = magnitude.reshape(-1).kthvalue(vector.numel() - kept + 1).values
    return vector * (magnitude >= bound)
