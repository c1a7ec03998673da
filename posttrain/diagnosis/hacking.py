"""Reward over-optimisation: the gold score as a function of the distance travelled (Gao et al., 2210.10760).

The proxy is what was optimised, the gold what was meant. With d = sqrt(KL(π ‖ π0)) and the gold score counted from that
of π0, R(d) = d (α - β d) under best-of-n and R(d) = d (α - β log d) under RL (their section 3).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import numpy as np

from posttrain.diagnosis.intervals import Interval
from posttrain.diagnosis.passk import Floats
from posttrain.errors import ConfigError, DataError

FEWEST_POINTS = 3  # two coefficients, and one point more to see an error by


class Optimiser(Enum):
    """What moves the policy, and so how the gold score bends."""

    BEST_OF_N = "best-of-n"
    RL = "rl"

    def bend(self, distance: Floats) -> Floats:
        """What β multiplies: d, or log d. Distances above 0."""
        return distance if self is Optimiser.BEST_OF_N else np.log(distance)

    def peak(self, alpha: Floats, beta: Floats) -> Floats:
        """d*, where R is largest: α / 2β, or exp(α/β - 1); infinite where β <= 0, for then the gold only rises."""
        with np.errstate(divide="ignore", over="ignore"):
            ratio = np.where(beta > 0, alpha / np.where(beta > 0, beta, 1.0), np.inf)
            return np.maximum(ratio / 2, 0.0) if self is Optimiser.BEST_OF_N else np.exp(ratio - 1)


class GoldCurve(NamedTuple):
    """R(d) = d (α - β bend(d))."""

    alpha: float
    beta: float
    optimiser: Optimiser = Optimiser.RL

    def gold(self, distance: Floats) -> Floats:
        """R(d), the gold score gained; 0 at d = 0."""
        bend = self.optimiser.bend(np.where(distance > 0, distance, 1.0))
        return np.where(distance > 0, distance * (self.alpha - self.beta * bend), 0.0)

    @property
    def peak(self) -> float:
        """d*, past which more optimisation lowers the gold score."""
        return float(self.optimiser.peak(np.array(self.alpha), np.array(self.beta)))


def best_of_n_distance(n: int) -> float:
    """d of best-of-n: the square root of KL = log n - (n - 1) / n, which needs no model (Stiennon et al. 2020).

    Raises:
        ConfigError: n < 1.
    """
    if n < 1:
        raise ConfigError(f"n = {n}: the best of n needs at least one sample")
    return float(np.sqrt(np.log(n) - (n - 1) / n))


def fit_gold(distance_N: Floats, gold_N: Floats, optimiser: Optimiser = Optimiser.RL) -> GoldCurve:
    """Least squares of R(d) through points of a run. Points at d = 0 say nothing and are left out.

    Args:
        distance_N: d = sqrt(KL). Shape (N,).
        gold_N: gold score less that of the policy at d = 0. Shape (N,).

    Raises:
        DataError: fewer than three points with d > 0, or all at one distance.
    """
    alpha, beta = _solve(*_points(distance_N, gold_N, optimiser))
    return GoldCurve(float(alpha), float(beta), optimiser)


class OverOptimisation(NamedTuple):
    """Where a run stands on its gold curve."""

    curve: GoldCurve
    peak: Interval  # d*
    past: bool | None  # whether the run's last point is past the peak; None = the points leave it open


def past_the_peak(
    distance_N: Floats, gold_N: Floats, optimiser: Optimiser = Optimiser.RL, seed: int = 0, draws: int = 1000
) -> OverOptimisation:
    """Whether the farthest point of a run lies past the gold score's peak, with the peak's 95% interval.

    Points of one run are few and not exchangeable, so the curve's residuals are resampled, not the points (inflated by
    sqrt(N / (N - 2)) for the two coefficients). What it needs: the gold score at three distances or more.

    Raises:
        DataError: as `fit_gold`.
    """
    design_N2, targets_N = _points(distance_N, gold_N, optimiser)
    curve = fit_gold(distance_N, gold_N, optimiser)
    fitted_N = design_N2 @ np.array([curve.alpha, curve.beta])
    points = len(targets_N)
    residuals_N = (targets_N - fitted_N) * np.sqrt(points / (points - 2))
    drawn_DN = np.random.default_rng(seed).integers(points, size=(draws, points))
    alpha_D, beta_D = _solve(design_N2, (fitted_N + residuals_N[drawn_DN]).T)
    # Nearest: interpolating between a finite and an infinite peak would give NaN.
    low, high = np.quantile(optimiser.peak(alpha_D, beta_D), [0.025, 0.975], method="nearest")
    last = float(design_N2[:, 0].max())
    past = True if last > high else False if last < low else None
    return OverOptimisation(curve, Interval(curve.peak, float(low), float(high)), past)


def proxy_gold_correlation(proxy_N: Floats, gold_N: Floats) -> float:
    """Pearson correlation of proxy and gold scores of the same samples, verdicts being 0 and 1; NaN if one is constant.

    Raises:
        DataError: the two differ in number.
    """
    if len(proxy_N) != len(gold_N):
        raise DataError(f"{len(proxy_N)} proxy scores, {len(gold_N)} gold scores: give both for the same samples")
    if len(proxy_N) < 2 or not np.ptp(proxy_N) or not np.ptp(gold_N):
        return float("nan")
    return float(np.corrcoef(proxy_N, gold_N)[0, 1])


def _points(distance_N: Floats, gold_N: Floats, optimiser: Optimiser) -> tuple[Floats, Floats]:
    """The regression's design (N, 2), columns d and -d bend(d), and its targets (N,)."""
    moved_N = distance_N > 0
    d, targets = distance_N[moved_N], gold_N[moved_N]
    if len(d) < FEWEST_POINTS or not np.ptp(d):
        raise DataError(
            f"{len(d)} points at {len(np.unique(d))} distances above 0; measure the gold score at {FEWEST_POINTS} "
            "distances or more"
        )
    return np.column_stack([d, -d * optimiser.bend(d)]), targets


def _solve(design_N2: Floats, targets_N: Floats) -> Floats:
    """Least-squares α and β; of each column, if there are several. Shape (2,) or (2, D)."""
    return np.asarray(np.linalg.lstsq(design_N2, targets_N, rcond=None)[0])
