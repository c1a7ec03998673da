"""Intervals: a bootstrap over problems for means, Wilson for shares, exact bounds where nothing varied.

Problems are resampled, never samples: the question is what another set of such problems would give. The draws depend on
the seed and the number of problems alone, so two calls with both equal use the same draws: for every k, for both
evaluations of a pair. Suffixes: M problem, K column (a k, a quantity), D draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from posttrain.diagnosis.passk import Floats
from posttrain.errors import ConfigError, DataError

LEVEL = 0.95
DRAWS = 1000
Bounds = tuple[float, float]
RATE: Bounds = (0.0, 1.0)
DIFFERENCE: Bounds = (-1.0, 1.0)

# Five values all lie on one side of their median with probability 2 * 2**-5 > 5%: below six problems even the whole
# observed range, the widest that a percentile bootstrap can answer, is no 95% interval.
FEWEST_TO_RESAMPLE = 6

# Above so many problems, random groups of problems are resampled instead of single ones: a mean over groups of equal
# size has the variance of the mean over problems, and a million problems need no matrix of draws.
GROUPS = 4096

# Values that print alike. Resampling them would claim certainty.
CONSTANT = 1e-3


@dataclass(frozen=True)
class Interval:
    """An estimate with an interval at `level`; NaN where there is nothing to estimate from."""

    estimate: float
    low: float
    high: float
    level: float = LEVEL

    def __str__(self) -> str:
        if math.isnan(self.estimate):
            return "n/a"
        return f"{short(self.estimate)} [{short(self.low)}, {short(self.high)}]"

    @property
    def known(self) -> bool:
        """Whether there was anything to estimate from."""
        return not math.isnan(self.estimate)

    @property
    def width(self) -> float:
        return self.high - self.low


def short(value: float) -> str:
    """`.217`, `-.047`, `1.000`, `153.2`: what fits in a table."""
    if not math.isfinite(value):
        return "n/a" if math.isnan(value) else f"{value:g}"
    text = f"{value:.3f}" if abs(value) < 9.9995 else f"{value:.1f}"
    return ".000" if text in ("0.000", "-0.000") else text.replace("0.", ".", 1) if abs(value) < 0.9995 else text


def bootstrap(
    values_M: ArrayLike, seed: int, draws: int = DRAWS, level: float = LEVEL, bounds: Bounds | None = RATE
) -> Interval:
    """`bootstrap_columns` of a single quantity. Shape (M,)."""
    return bootstrap_columns(np.asarray(values_M, dtype=np.float64)[:, None], seed, draws, level, bounds)[0]


def bootstrap_columns(
    values_MK: ArrayLike, seed: int, draws: int = DRAWS, level: float = LEVEL, bounds: Bounds | None = RATE
) -> list[Interval]:
    """Mean over problems of each column, with a percentile bootstrap interval; the same draws for every column.

    Resampling cannot imagine a value that it has not seen: 128 problems at zero would give [0, 0]. So where all values
    of a column agree, or there are fewer than six, the interval is `unseen_bounds` instead.

    Args:
        values_MK: one row a problem; NaN cells are left out of their column. Shape (M, K).
        bounds: the least and largest value possible; None if unbounded, and then fewer than six problems get an
            infinite interval and equal values a point.

    Returns:
        K intervals; NaN for a column without values.
    """
    values_MK = np.asarray(values_MK, dtype=np.float64)
    if values_MK.ndim != 2:
        raise DataError(f"values of shape {values_MK.shape}: give one row a problem and one column a quantity")
    if draws < 1 or not 0 < level < 1:
        raise ConfigError(f"draws = {draws}, level = {level}: need draws >= 1 and 0 < level < 1")
    present_MK = ~np.isnan(values_MK)
    means_DK = _resampled_means(values_MK, present_MK, seed, draws)
    columns = range(values_MK.shape[1])
    return [_interval(values_MK[present_MK[:, j], j], means_DK[:, j], level, bounds) for j in columns]


def paired_difference(
    before_MK: ArrayLike, after_MK: ArrayLike, seed: int, draws: int = DRAWS, level: float = LEVEL
) -> list[Interval]:
    """Mean of after - before of rates, rows being the same problems: one draw serves both sides. Shapes (M, K)."""
    difference_MK = np.asarray(after_MK, dtype=np.float64) - np.asarray(before_MK, dtype=np.float64)
    return bootstrap_columns(difference_MK, seed, draws, level, DIFFERENCE)


def unseen_bounds(values_M: Floats, level: float, bounds: Bounds) -> tuple[float, float]:
    """Bounds on the mean of bounded values that hold for every distribution, each at `level` on its own.

    If more than 1 - (1 - level)^(1/M) of all problems lay below the least of M observed values, M draws would all have
    missed them with probability under 1 - level. So at most that share lies below, at worst at the lower bound; and
    likewise above. With all values zero the upper bound is `zero_success_bound(M)`.
    """
    unseen = zero_success_bound(len(values_M), level)
    low = (1 - unseen) * float(values_M.min()) + unseen * bounds[0]
    high = (1 - unseen) * float(values_M.max()) + unseen * bounds[1]
    return low, high


def zero_success_bound(trials: int, level: float = LEVEL) -> float:
    """Exact upper bound on a probability after no success in n trials: 1 - (1 - level)^(1/n), about 3/n."""
    return 1 - (1 - level) ** (1 / trials) if trials else 1.0


def share(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """A share with its Wilson interval (Wilson 1927); the exact one-sided bound if none or all succeeded."""
    if not 0 <= successes <= trials:
        raise DataError(f"{successes} of {trials}: need 0 <= successes <= trials")
    if trials == 0:
        return Interval(math.nan, math.nan, math.nan, level)
    unseen, p = zero_success_bound(trials, level), successes / trials
    if successes == 0:
        return Interval(0.0, 0.0, unseen, level)
    if successes == trials:
        return Interval(1.0, 1 - unseen, 1.0, level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(p * (1 - p) / trials + (z / (2 * trials)) ** 2) / (1 + z * z / trials)
    return Interval(p, centre - half, centre + half, level)


def _resampled_means(values_MK: Floats, present_MK: np.ndarray, seed: int, draws: int) -> Floats:
    """Mean of each column in each draw of M problems with replacement; NaN where a draw met no value. Shape (D, K)."""
    if len(values_MK) == 0:
        return np.full((draws, values_MK.shape[1]), np.nan)
    sums_GK, counts_GK = _grouped(np.where(present_MK, values_MK, 0.0), present_MK.astype(np.float64), seed)
    problems = len(sums_GK)
    drawn_DM = np.random.default_rng(seed).integers(problems, size=(draws, problems))
    drawn_DM += problems * np.arange(draws)[:, None]
    times_DM = np.bincount(drawn_DM.ravel(), minlength=draws * problems).reshape(draws, problems).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return (times_DM @ sums_GK) / (times_DM @ counts_GK)


def _grouped(values_MK: Floats, present_MK: Floats, seed: int) -> tuple[Floats, Floats]:
    """Sums and counts of random groups of problems; each problem its own group while there are few. Shapes (G, K)."""
    problems = len(values_MK)
    if problems <= GROUPS:
        return values_MK, present_MK
    group_M = np.random.default_rng([seed, problems]).permutation(problems) % GROUPS
    columns = range(values_MK.shape[1])

    def total(cells_MK: Floats) -> Floats:
        return np.column_stack([np.bincount(group_M, cells_MK[:, j], GROUPS) for j in columns])

    return total(values_MK), total(present_MK)


def _interval(values_M: Floats, means_D: Floats, level: float, bounds: Bounds | None) -> Interval:
    if not values_M.size:
        return Interval(math.nan, math.nan, math.nan, level)
    estimate, few = float(values_M.mean()), values_M.size < FEWEST_TO_RESAMPLE
    if bounds is None and few:
        return Interval(estimate, -math.inf, math.inf, level)
    if bounds is not None and (few or np.ptp(values_M) < CONSTANT):
        return Interval(estimate, *unseen_bounds(values_M, level, bounds), level)
    low, high = np.nanquantile(means_D, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level)
