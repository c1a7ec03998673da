"""The sharpening tax: what a stage paid in breadth for pass@1 (2610.01509; written from its formulas).

A(K) = sum over k < K of [pass@K - pass@k] is the area above the pass@k curve's rise; S(K) scales it by what was left to
gain, (K - 1)(1 - pass@1). The tax is before minus after: positive where the curve got flatter. Problems with fewer than
K samples are left out of all of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from posttrain.diagnosis.intervals import DIFFERENCE, DRAWS, Interval, bootstrap
from posttrain.diagnosis.passk import Floats, pass_at_k
from posttrain.errors import ConfigError

Counts = tuple[Floats, Floats]  # scored and correct samples of each problem, (M,) and (M,)


class Tax(NamedTuple):
    """Area and scaled area, before minus after."""

    area: Interval
    scaled: Interval


def area(scored_M: Floats, correct_M: Floats, k: int) -> Floats:
    """A(K) of each problem, over every k up to K. Shape (M,), in [0, (K - 1)(1 - pass@1)]; NaN where n < K.

    The sum has a closed form. With c of n right, t(k) = 1 - pass@k = C(n - c, k) / C(n, k) telescopes:
    t(k) = g(k) - g(k + 1) for g(k) = (n - k + 1) t(k) / (c + 1), so t(1) + … + t(K - 1) = g(1) - g(K).
    """
    scored_M, correct_M = np.asarray(scored_M, dtype=np.float64), np.asarray(correct_M, dtype=np.float64)
    first_M, last_M = 1 - pass_at_k(scored_M, correct_M, 1), 1 - pass_at_k(scored_M, correct_M, k)
    missed_M = (scored_M * first_M - (scored_M - k + 1) * last_M) / (correct_M + 1)
    return np.maximum(missed_M - (k - 1) * last_M, 0.0)  # rounding may leave -1e-15


def scaled_area(scored_M: Floats, correct_M: Floats, k: int) -> float:
    """S(K) of a set of problems: A(K) / ((K - 1)(1 - pass@1)), in [0, 1]; 0 if every sample was right, NaN without any.

    Raises:
        ConfigError: K < 2, where there is no curve.
    """
    area_M, left_M = _area_and_left((scored_M, correct_M), k)
    return _ratio(area_M, left_M)


def sharpening_tax(before: Counts, after: Counts, k: int, seed: int = 0, draws: int = DRAWS) -> Tax:
    """Tax of a stage from (scored, correct) of the same problems before and after, paired.

    The scaled tax is a difference of ratios of means. Each problem's part in it is linearised at the estimate,
    S + (A_i - S L_i) / mean(L) with L = (K - 1)(1 - pass@1): their mean is S itself, and resampling them is resampling
    problems, to first order in the error of mean(L).

    Raises:
        ConfigError: K < 2, where there is no curve.
    """
    (area0_M, left0_M), (area1_M, left1_M) = _area_and_left(before, k), _area_and_left(after, k)
    both_M = ~np.isnan(area0_M) & ~np.isnan(area1_M)
    parts_M = _linearised(area0_M[both_M], left0_M[both_M]) - _linearised(area1_M[both_M], left1_M[both_M])
    whole = float(k - 1)
    return Tax(
        area=bootstrap((area0_M - area1_M)[both_M], seed, draws, bounds=(-whole, whole)),
        scaled=bootstrap(parts_M, seed, draws, bounds=DIFFERENCE),
    )


def _area_and_left(counts: Counts, k: int) -> tuple[Floats, Floats]:
    """A(K), and the most it could be, L = (K - 1)(1 - pass@1), of each problem; both NaN where n < K."""
    if k < 2:
        raise ConfigError(f"K = {k}: the area between pass@1 and pass@K needs K >= 2")
    area_M = area(*counts, k)
    return area_M, np.where(np.isnan(area_M), np.nan, (k - 1) * (1 - pass_at_k(*counts, 1)))


def _ratio(area_M: Floats, left_M: Floats) -> float:
    present_M = ~np.isnan(area_M)
    if not present_M.any():
        return float("nan")
    left = float(left_M[present_M].sum())
    return float(area_M[present_M].sum()) / left if left > 0 else 0.0


def _linearised(area_M: Floats, left_M: Floats) -> Floats:
    scaled = _ratio(area_M, left_M)
    if not left_M.any():
        return np.full(len(area_M), scaled)
    return scaled + (area_M - scaled * left_M) / left_M.mean()
