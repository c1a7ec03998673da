"""Choosing among samples without an oracle: majority votes, reward models, and how far either falls short of pass@k.

The votes of a problem are ragged: `offsets` (M + 1,), and for each distinct answer how often it was given, `counts`
(V,), and whether it is right, `right` (V,). Samples without an answer do not vote.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posttrain.diagnosis.passk import Floats, log_choose, pass_at_k
from posttrain.errors import ConfigError, DataError

Offsets = NDArray[np.int64]
Flags = NDArray[np.bool_]


def majority_right(offsets: Offsets, counts: Floats, right: Flags) -> Floats:
    """Chance that the most frequent answer is right, ties split evenly (self-consistency, 2203.11171). Shape (M,).

    A problem without votes has no majority: 0.
    """
    problem_V = _problem_of(offsets)
    most_M = _most(offsets, counts)
    top_V = (counts == most_M[problem_V]) & (counts > 0)
    tied_M, right_M = _sums(problem_V, top_V, len(most_M)), _sums(problem_V, top_V & right, len(most_M))
    return np.divide(right_M, tied_M, out=np.zeros_like(right_M), where=tied_M > 0)


def majority_at_k(
    offsets: Offsets,
    counts: Floats,
    right: Flags,
    k: int,
    seed: int = 0,
    draws: int = 64,
    silent_M: Floats | None = None,
) -> Floats:
    """`majority_right` of k random samples of a problem, without replacement, averaged over draws. Shape (M,).

    A problem with k samples or fewer gives all of them. The votes drawn are multivariate hypergeometric, made of one
    hypergeometric an answer, given those before it. A draw is a number in [0, 1], so 64 leave an error of at most
    .5 / sqrt(64) = .06 a problem, independent between problems.

    Args:
        silent_M: samples without an answer, which may be drawn but do not vote; None = draw from the votes alone.

    Raises:
        ConfigError: k < 1 or draws < 1.
    """
    if k < 1 or draws < 1:
        raise ConfigError(f"k = {k}, draws = {draws}: a majority needs at least one of each")
    chance, problems = np.random.default_rng(seed), len(offsets) - 1
    sizes_M = np.diff(offsets)
    votes_M = _sums(_problem_of(offsets), counts, problems).astype(np.int64)
    quiet_M = np.zeros_like(votes_M) if silent_M is None else np.asarray(silent_M).astype(np.int64)
    chosen_M = np.minimum(k, votes_M + quiet_M)
    # The j-th answers of all problems that have so many.
    columns = [np.flatnonzero(sizes_M > j) for j in range(int(sizes_M.max(initial=0)))]
    whole_V = counts.astype(np.int64)
    sums_M = np.zeros(problems)
    for _ in range(draws):
        left_M = chance.hypergeometric(votes_M, quiet_M, chosen_M)
        pool_M, drawn_V = votes_M.copy(), np.zeros(len(counts))
        for j, members in enumerate(columns):
            places = offsets[members] + j
            pool_M[members] -= whole_V[places]
            taken = chance.hypergeometric(whole_V[places], pool_M[members], left_M[members])
            left_M[members] -= taken
            drawn_V[places] = taken
        sums_M += majority_right(offsets, drawn_V, right)
    return sums_M / draws


def selection_gap(
    scored_M: Floats, correct_M: Floats, offsets: Offsets, counts: Floats, right: Flags, k: int, seed: int = 0
) -> Floats:
    """pass@k - maj@k: what a perfect selector would gain over the vote. Shape (M,), in [-1, 1]; NaN where n < k.

    Scored samples beyond the votes gave no answer; they are drawn, but do not vote.
    """
    silent_M = np.maximum(scored_M - _sums(_problem_of(offsets), counts, len(offsets) - 1), 0)
    return pass_at_k(scored_M, correct_M, k) - majority_at_k(offsets, counts, right, k, seed, silent_M=silent_M)


def best_of_k(scores_MN: Floats, right_MN: Flags, k: int) -> Floats:
    """Expected correctness of the highest scored of k random samples of a problem, without replacement. Shape (M,).

    Sorted by score, the sample of rank r (from 0) is the best of k with probability C(r, k - 1) / C(n, k); equal scores
    share the correctness of their ranks. Rewards of a selector against an oracle: 2210.10760.

    Args:
        scores_MN: a selector's score of each sample; NaN where a problem has fewer than N. Shape (M, N).
        right_MN: whether the sample is right. Shape (M, N).

    Returns:
        Between pass^k and pass@k; NaN for a problem with fewer than k samples.

    Raises:
        ConfigError: k < 1.
    """
    if k < 1:
        raise ConfigError(f"k = {k}: the best of k needs at least one sample")
    n_M = (~np.isnan(scores_MN)).sum(1)
    enough_M = n_M >= k
    order_MN = np.argsort(scores_MN, axis=1, kind="stable")  # NaN last
    sorted_MN = np.take_along_axis(scores_MN, order_MN, 1)
    marks_MN = np.take_along_axis(right_MN, order_MN, 1).astype(np.float64)
    # Each run of equal scores in a row is a group; its first sample opens it.
    opens_MN = np.ones(scores_MN.shape, dtype=bool)
    opens_MN[:, 1:] = sorted_MN[:, 1:] != sorted_MN[:, :-1]
    group = opens_MN.ravel().cumsum() - 1
    shared_MN = (np.bincount(group, marks_MN.ravel()) / np.bincount(group))[group].reshape(scores_MN.shape)
    rank_MN = np.broadcast_to(np.arange(scores_MN.shape[1]), scores_MN.shape)
    present_MN = rank_MN < n_M[:, None]
    of_all_M = log_choose(np.where(enough_M, n_M, k), np.full_like(n_M, k))
    weights_MN = np.exp(log_choose(rank_MN, np.full_like(rank_MN, k - 1)) - of_all_M[:, None])
    best_M = np.where(present_MN, shared_MN * weights_MN, 0.0).sum(1)
    return np.where(enough_M, np.minimum(best_M, 1.0), np.nan)


def agreement_auc(scores_N: Floats, right_N: Flags) -> float:
    """Chance that a right sample is scored above a wrong one, ties counting half (Mann–Whitney); NaN without both.

    1 - AUC is how often a reward model prefers the wrong answer. Over all problems together it also rewards telling
    easy problems from hard ones; `agreement_within` does not.
    """
    return float(agreement_within(np.zeros(len(scores_N), dtype=np.int64), scores_N, right_N).auc_M[0])


class Agreement(NamedTuple):
    """Of each problem: the chance that its right samples are scored above its wrong ones, and how many pairs say so."""

    auc_M: Floats  # NaN where all samples are right, or all wrong
    pairs_M: Floats


def agreement_within(problem_N: NDArray[np.int64], scores_N: Floats, right_N: Flags) -> Agreement:
    """`agreement_auc` of samples of the same problem alone: what best-of-n and preference pairs rest on.

    The rank sum of a problem's right samples, less the least it could be, counts the pairs that they win.

    Args:
        problem_N: the problem of each sample, from 0; M is the largest plus one. Shape (N,).

    Raises:
        DataError: the arrays differ in length, or a score is NaN.
    """
    if not len(problem_N) == len(scores_N) == len(right_N):
        raise DataError(f"{len(problem_N)} problems, {len(scores_N)} scores, {len(right_N)} verdicts; give all three")
    if (lost := np.flatnonzero(np.isnan(scores_N))).size:
        raise DataError(f"sample {lost[0]} has no score (NaN); leave it out")
    problems = int(problem_N.max(initial=0)) + 1
    order_N = np.lexsort((scores_N, problem_N))
    problem_N, scores_N, right_N = problem_N[order_N], scores_N[order_N], right_N[order_N]
    changes_N = (problem_N[1:] != problem_N[:-1]) | (scores_N[1:] != scores_N[:-1])
    opens_N = np.append(np.ones(min(len(scores_N), 1), dtype=bool), changes_N)
    group_N = opens_N.cumsum() - 1
    size_G = np.bincount(group_N)
    before_M = np.concatenate([[0], np.cumsum(np.bincount(problem_N, minlength=problems))[:-1]])
    mean_rank_G = np.cumsum(size_G) - (size_G - 1) / 2  # from 1, over all problems
    rank_N = mean_rank_G[group_N] - before_M[problem_N]
    positives_M = _sums(problem_N, right_N, problems)
    pairs_M = positives_M * _sums(problem_N, ~right_N, problems)
    won_M = _sums(problem_N, rank_N * right_N, problems) - positives_M * (positives_M + 1) / 2
    return Agreement(np.divide(won_M, pairs_M, out=np.full(problems, np.nan), where=pairs_M > 0), pairs_M)


class Calibration(NamedTuple):
    """How well a confidence foretells correctness; 0 is perfect for both."""

    ece: float  # expected calibration error, 1706.04599 eq. 3
    brier: float  # mean squared error of the confidence as a forecast (Brier 1950)


def calibration(confidence_N: Floats, right_N: Floats, bins: int = 10) -> Calibration:
    """Of a stated confidence, or of the majority's share of the votes; shapes (N,), NaN confidences are left out.

    Args:
        right_N: 1 or 0, or the chance that the answer is right, as `majority_right` gives where answers tie.

    Raises:
        DataError: a confidence is not in [0, 1].
    """
    stated_N = ~np.isnan(confidence_N)
    confidence_N, right_N = confidence_N[stated_N], np.asarray(right_N, dtype=np.float64)[stated_N]
    if (outside := np.flatnonzero((confidence_N < 0) | (confidence_N > 1))).size:
        raise DataError(
            f"confidence {confidence_N[outside[0]]:g} is not in [0, 1]; a percentage must be divided by 100"
        )
    if not confidence_N.size:
        return Calibration(np.nan, np.nan)
    bin_N = np.minimum((confidence_N * bins).astype(int), bins - 1)
    gaps = np.abs(np.bincount(bin_N, confidence_N, bins) - np.bincount(bin_N, right_N, bins))
    return Calibration(float(gaps.sum() / confidence_N.size), float(np.mean((confidence_N - right_N) ** 2)))


def majority_share(offsets: Offsets, counts: Floats) -> Floats:
    """Share of a problem's votes that its most frequent answer got: its confidence. Shape (M,), NaN without votes."""
    most_M = _most(offsets, counts)
    total_M = _sums(_problem_of(offsets), counts, len(most_M))
    return np.divide(most_M, total_M, out=np.full(len(most_M), np.nan), where=total_M > 0)


def answer_entropy(offsets: Offsets, counts: Floats) -> Floats:
    """Entropy of a problem's distribution over answers, nats (2507.14843: it can fall while token entropy rises).

    Of the observed shares, so biased low, by about (answers - 1) / (2 votes); compare at equal numbers of votes.
    Shape (M,), in [0, log(answers)]; NaN without votes.
    """
    problem_V = _problem_of(offsets)
    total_M = _sums(problem_V, counts, len(offsets) - 1)
    share_V = np.divide(counts, total_M[problem_V], out=np.ones(len(counts)), where=counts > 0)
    entropy_M = _sums(problem_V, -share_V * np.log(share_V), len(offsets) - 1)
    return np.where(total_M > 0, np.maximum(entropy_M, 0.0), np.nan)


def _problem_of(offsets: Offsets) -> NDArray[np.int64]:
    """The problem of each distinct answer. Shape (V,)."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _sums(index: NDArray[np.int64], values: NDArray[Any], length: int) -> Floats:
    """Sum of the values at each index. In floats also where nobody gave an answer: `bincount` of nothing counts."""
    return np.bincount(index, values, length).astype(np.float64)


def _most(offsets: Offsets, counts: Floats) -> Floats:
    """Votes for the most frequent answer; 0 without votes. Shape (M,)."""
    most_M = np.zeros(len(offsets) - 1)
    np.maximum.at(most_M, _problem_of(offsets), counts)
    return most_M
