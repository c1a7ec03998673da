"""Reward over-optimisation: the gold score as a function of the distance travelled (2210.10760).

With d = sqrt(KL(π ‖ π_0)): best-of-n R(d) = d (α - β d), RL R(d) = d (α - β log d).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from posttrain.diagnosis.passk import Floats
from posttrain.errors import DataError


class GoldCurve(NamedTuple):
    """The two coefficients of R(d) = d (α - β log d)."""

    alpha: float
    beta: float

    def gold(self, distance: Floats) -> Floats:
        """R(d); 0 at d = 0."""
        return np.where(distance > 0, distance * (self.alpha - self.beta * np.log(np.maximum(distance, 1e-12))), 0.0)

    @property
    def peak(self) -> float:
        """d* = exp(α/β - 1), past which more optimisation lowers the gold score; infinite if β <= 0."""
        return float(np.exp(self.alpha / self.beta - 1)) if self.beta > 0 else float("inf")


def fit_gold(distance_N: Floats, gold_N: Floats) -> GoldCurve:
    """Least squares of R(d) = d α - β d log d through (d, gold) points of a run. Shapes (N,), (N,).

    Raises:
        DataError: fewer than three points with d > 0.
    """
    used = distance_N > 0
    if used.sum() < 3:
        raise DataError(f"{int(used.sum())} points with a distance above 0; the curve needs at least three")
    d = distance_N[used]
    (alpha, beta), *_ = np.linalg.lstsq(np.column_stack([d, -d * np.log(d)]), gold_N[used], rcond=None)
    return GoldCurve(float(alpha), float(beta))


def best_of_n_gold(distance: Floats, alpha: float, beta: float) -> Floats:
    """R_bon(d) = d (α - β d)."""
    return distance * (alpha - beta * distance)
