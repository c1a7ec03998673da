"""pass@k, pass^k and the informative-group rate: unbiased estimates from n samples of a problem, c of them correct.

All three ask what a random subset of k of the n samples looks like, without replacement, so each is a ratio of binomial
coefficients and needs no simulation. Suffix M: one value a problem. A problem with fewer than k scored samples has no
unbiased estimate and gets NaN; the caller counts those.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.errors import ConfigError, DataError

Floats = NDArray[np.float64]


def pass_at_k(scored_M: ArrayLike, correct_M: ArrayLike, k: int) -> Floats:
    """Probability that at least one of k samples is correct: 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021 (arXiv 2107.03374), eq. 1. The plug-in 1 - (1 - c/n)^k is biased low. At k = n the estimate is 0 or
    1 for every problem and its variance is largest, so prefer k <= n/2.

    Args:
        scored_M: n, samples with a verdict. Shape (M,).
        correct_M: c, correct ones among them. Shape (M,).

    Returns:
        Shape (M,), in [0, 1]; NaN where n < k.

    Raises:
        ConfigError: k < 1.
        DataError: not 0 <= c <= n for some problem.
    """
    scored_M, correct_M = _checked(scored_M, correct_M, k)
    return 1 - _all_of_k(scored_M, scored_M - correct_M, k)


def pass_hat_k(scored_M: ArrayLike, correct_M: ArrayLike, k: int) -> Floats:
    """Probability that all of k samples are correct, written pass^k: C(c, k) / C(n, k).

    The mirror image of `pass_at_k`, same arguments, shapes and errors.
    """
    scored_M, correct_M = _checked(scored_M, correct_M, k)
    return _all_of_k(scored_M, correct_M, k)


def informative_rate(scored_M: ArrayLike, correct_M: ArrayLike, group_size: int) -> Floats:
    """Probability that a group of G samples is neither all right nor all wrong: pass@G - pass^G.

    Only such groups carry gradient in GRPO and RLOO (their advantages are not all zero), so one evaluation tells the
    share of informative prompts for every G <= n before any training. Arguments, shapes and errors as `pass_at_k`.
    """
    scored_M, correct_M = _checked(scored_M, correct_M, group_size)
    all_right_M = _all_of_k(scored_M, correct_M, group_size)
    all_wrong_M = _all_of_k(scored_M, scored_M - correct_M, group_size)
    # At G = 1 the two sum to 1, and rounding alone could leave -1e-16.
    return np.maximum(1 - all_right_M - all_wrong_M, 0)


def usual_samples(scored_M: Floats) -> int:
    """The n that at least nine in ten of the scored problems have; 0 if none was scored."""
    usable_M = scored_M[scored_M > 0]
    return int(np.quantile(usable_M, 0.1, method="lower")) if usable_M.size else 0


def largest_k(samples: int) -> int:
    """K for decisions: half the samples. Above it the estimator's variance grows towards that of a coin."""
    return max(1, samples // 2)


def ladder(samples: int) -> tuple[int, ...]:
    """The k of a pass@k curve: powers of two up to half the samples, that half, and all of them."""
    half = largest_k(samples)
    powers = {2**i for i in range(half.bit_length())}
    return tuple(sorted(powers | {half, max(1, samples)}))


def log_choose(n: NDArray[Any], k: NDArray[Any]) -> Floats:
    """log C(n, k) for whole numbers of one shape; minus infinity where k > n."""
    most = int(max(n.max(initial=0), k.max(initial=0)))
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
    n, k = n.astype(np.int64), k.astype(np.int64)
    fits = k <= n
    left = np.where(fits, n - k, 0)
    return np.where(fits, log_factorial[n] - log_factorial[k] - log_factorial[left], -np.inf)


def _all_of_k(scored_M: Floats, marked_M: Floats, k: int) -> Floats:
    """C(marked, k) / C(scored, k) as a product of k factors in [0, 1]: binomials themselves overflow from n = 1030."""
    if not scored_M.size:
        return np.zeros(0)
    # Many problems share their two counts: each pair is computed once.
    width = float(max(scored_M.max(), marked_M.max())) + 1
    pairs_P, inverse_M = np.unique(scored_M * width + marked_M, return_inverse=True)
    scored_P, marked_P = np.divmod(pairs_P, width)
    share_P = np.where(scored_P >= k, 1.0, np.nan)
    for j in range(k):
        # Problems with n <= j < k are NaN already; the floor of 1 only avoids their division by zero.
        share_P *= np.maximum(marked_P - j, 0) / np.maximum(scored_P - j, 1)
    return share_P[inverse_M]


def _checked(scored_M: ArrayLike, correct_M: ArrayLike, k: int) -> tuple[Floats, Floats]:
    scored_M, correct_M = np.asarray(scored_M, dtype=np.float64), np.asarray(correct_M, dtype=np.float64)
    if k < 1:
        raise ConfigError(f"k = {k}: pass@k and group sizes start at 1")
    if scored_M.shape != correct_M.shape or scored_M.ndim != 1:
        raise DataError(f"scored {scored_M.shape} and correct {correct_M.shape}: give one number a problem in both")
    wrong = np.flatnonzero((correct_M < 0) | (correct_M > scored_M))
    if wrong.size:
        i = wrong[0]
        raise DataError(f"problem {i}: {correct_M[i]:g} correct of {scored_M[i]:g} scored; need 0 <= correct <= scored")
    return scored_M, correct_M
