"""Choosing among samples without an oracle: majority votes, reward models, and how far either falls short of pass@k.

The votes of a problem are ragged: `offsets` (M + 1,), and for each distinct answer how often it was given, `counts`
(V,), and whether it is right, `right` (V,). Samples without an answer do not vote.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posttrain.diagnosis.passk import Floats, log_choose

Offsets = NDArray[np.int64]


def majority_right(offsets: Offsets, counts: Floats, right: NDArray[np.bool_]) -> Floats:
    """Chance that the most frequent answer is right, ties split evenly (self-consistency, 2203.11171). Shape (M,).

    A problem without votes has no majority: 0.
    """
    problem_V = _problem_of(offsets)
    most_M = np.zeros(len(offsets) - 1)
    np.maximum.at(most_M, problem_V, counts)
    top_V = (counts == most_M[problem_V]) & (counts > 0)
    tied_M = np.bincount(problem_V, top_V, len(most_M))
    right_M = np.bincount(problem_V, top_V & right, len(most_M))
    return np.divide(right_M, tied_M, out=np.zeros_like(right_M), where=tied_M > 0)


def majority_at_k(
    offsets: Offsets, counts: Floats, right: NDArray[np.bool_], k: int, seed: int = 0, draws: int = 16
) -> Floats:
    """`majority_right` of k random votes of a problem, without replacement, averaged over draws. Shape (M,).

    A problem with k votes or fewer gives all of them. The k votes are the first k of a random order of all votes.
    """
    total_M = np.add.reduceat(np.append(counts, 0.0), offsets[:-1]) * (np.diff(offsets) > 0)
    vote_S = np.repeat(np.arange(len(counts)), counts.astype(np.int64))
    problem_S = _problem_of(offsets)[vote_S]
    starts_M = np.concatenate([[0], np.cumsum(total_M)[:-1]]).astype(np.int64)
    chance = np.random.default_rng(seed)
    sums_M = np.zeros(len(offsets) - 1)
    for _ in range(draws):
        order_S = np.lexsort((chance.random(len(vote_S)), problem_S))
        chosen_S = np.arange(len(vote_S)) - starts_M[problem_S] < k
        drawn_V = np.bincount(vote_S[order_S][chosen_S], minlength=len(counts)).astype(np.float64)
        sums_M += majority_right(offsets, drawn_V, right)
    return sums_M / draws


def best_of_k(scores_MN: Floats, right_MN: NDArray[np.bool_], k: int) -> Floats:
    """Expected correctness of the highest scored of k random samples of a problem, without replacement. Shape (M,).

    Sorted by score, the sample of rank r (from 0) is the best of k with probability C(r, k - 1) / C(n, k); equal scores
    share the correctness of their ranks. Rewards of a selector against an oracle: 2210.10760.
    """
    n = scores_MN.shape[1]
    ranks = np.arange(n)
    weights_N = np.exp(log_choose(ranks, np.full(n, k - 1)) - log_choose(np.array([n]), np.array([k])))
    order_MN = np.argsort(scores_MN, axis=1, kind="stable")
    sorted_scores = np.take_along_axis(scores_MN, order_MN, 1)
    sorted_right = np.take_along_axis(right_MN.astype(np.float64), order_MN, 1)
    best_M = np.empty(len(scores_MN))
    for i, (values, marks) in enumerate(zip(sorted_scores, sorted_right, strict=True)):
        _, group, size = np.unique(values, return_inverse=True, return_counts=True)
        best_M[i] = (np.bincount(group, marks)[group] / size[group] * weights_N).sum()
    return best_M


def agreement_auc(scores_N: Floats, right_N: NDArray[np.bool_]) -> float:
    """Chance that a right sample is scored above a wrong one, ties counting half (Mann–Whitney); NaN without both.

    1 - AUC is how often a reward model prefers the wrong answer.
    """
    positives, negatives = int(right_N.sum()), int((~right_N).sum())
    if not positives or not negatives:
        return float("nan")
    _, inverse_N, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = mean_rank[inverse_N][right_N].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


class Calibration(NamedTuple):
    """How well a confidence foretells correctness: expected calibration error (1706.04599), Brier score (1950)."""

    ece: float
    brier: float


def calibration(confidence_N: Floats, right_N: Floats, bins: int = 10) -> Calibration:
    """Of a stated confidence, or of the majority's share of the votes; both in [0, 1], shape (N,)."""
    bin_N = np.minimum((confidence_N * bins).astype(int), bins - 1)
    counts = np.bincount(bin_N, minlength=bins)
    gaps = np.abs(np.bincount(bin_N, confidence_N, bins) - np.bincount(bin_N, right_N, bins))
    return Calibration(float(gaps.sum() / counts.sum()), float(np.mean((confidence_N - right_N) ** 2)))


def majority_share(offsets: Offsets, counts: Floats) -> Floats:
    """Share of a problem's votes that its most frequent answer got: its confidence. Shape (M,), NaN without votes."""
    problem_V = _problem_of(offsets)
    most_M, total_M = np.zeros(len(offsets) - 1), np.bincount(problem_V, counts, len(offsets) - 1)
    np.maximum.at(most_M, problem_V, counts)
    return np.divide(most_M, total_M, out=np.full(len(most_M), np.nan), where=total_M > 0)


def answer_entropy(offsets: Offsets, counts: Floats) -> Floats:
    """Entropy of a problem's distribution over answers, nats (2507.14843: it can fall while token entropy rises)."""
    problem_V = _problem_of(offsets)
    total_M = np.bincount(problem_V, counts, len(offsets) - 1)
    share_V = np.divide(counts, total_M[problem_V], out=np.ones_like(counts), where=counts > 0)
    entropy_M = np.bincount(problem_V, -share_V * np.log(share_V), len(offsets) - 1)
    return np.where(total_M > 0, entropy_M, np.nan)


def _problem_of(offsets: Offsets) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
