"""The sharpening tax: what a stage paid in breadth for pass@1 (2610.01509; written from its formulas).

A(K) = sum over k < K of [pass@K - pass@k] is the area under the pass@k curve's rise; S(K) scales it by what was left to
gain, (K - 1)(1 - pass@1). The tax is before minus after: positive where the curve got flatter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from posttrain.diagnosis.intervals import Interval, bootstrap, bootstrap_columns
from posttrain.diagnosis.passk import Floats, pass_at_k


class Tax(NamedTuple):
    """Area and scaled area, before minus after."""

    area: Interval
    scaled: Interval


def area(scored_M: Floats, correct_M: Floats, k: int) -> Floats:
    """A(K) of each problem. Shape (M,), in [0, K - 1]; NaN where n < K."""
    rates_MK = np.column_stack([pass_at_k(scored_M, correct_M, each) for each in range(1, k + 1)])
    return (rates_MK[:, -1:] - rates_MK[:, :-1]).sum(1)


def scaled_area(scored_M: Floats, correct_M: Floats, k: int) -> float:
    """S(K) of a set of problems: A(K) / ((K - 1)(1 - pass@1)); 0 where pass@1 is 1 or K is 1."""
    left = (k - 1) * (1 - float(np.nanmean(pass_at_k(scored_M, correct_M, 1))))
    return float(np.nanmean(area(scored_M, correct_M, k))) / left if left > 0 else 0.0


def sharpening_tax(
    before: tuple[Floats, Floats], after: tuple[Floats, Floats], k: int, seed: int = 0, draws: int = 1000
) -> Tax:
    """Tax of a stage from (scored, correct) of the same problems before and after, paired.

    The scaled one is a ratio of means, so its interval resamples problems and forms the ratio in every draw.
    """
    area0_M, area1_M = area(*before, k), area(*after, k)
    plain = bootstrap(area0_M - area1_M, seed, draws, bounds=None)
    left0_M, left1_M = ((k - 1) * (1 - pass_at_k(*side, 1)) for side in (before, after))
    drawn = np.random.default_rng(seed).integers(len(area0_M), size=(draws, len(area0_M))) if len(area0_M) else None
    if drawn is None:
        return Tax(plain, bootstrap_columns(np.zeros((0, 1)), seed)[0])

    def ratio(area_M: Floats, left_M: Floats, index: np.ndarray) -> Floats:
        top, bottom = area_M[index].sum(-1), left_M[index].sum(-1)
        return np.divide(top, bottom, out=np.zeros_like(top, dtype=float), where=bottom > 0)

    taxes_D = ratio(area0_M, left0_M, drawn) - ratio(area1_M, left1_M, drawn)
    every = np.arange(len(area0_M))[None]
    estimate = float((ratio(area0_M, left0_M, every) - ratio(area1_M, left1_M, every))[0])
    low, high = np.nanquantile(taxes_D, [0.025, 0.975])
    return Tax(plain, Interval(estimate, float(low), float(high)))
