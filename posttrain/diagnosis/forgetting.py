"""What a stage forgot, from anchors: problems that it was not to change (survey 2604.07941 eq. 8; 2509.04259).

Suffix M: one value an anchor; scored (n) and correct (c) samples of the same anchors before and after.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from posttrain.diagnosis.intervals import DIFFERENCE, FEWEST_TO_RESAMPLE, Interval, bootstrap
from posttrain.diagnosis.passk import Floats, pass_at_k
from posttrain.diagnosis.teachers import teacher_novelty

Counts = tuple[Floats, Floats]  # scored and correct samples of each anchor, (M,) and (M,)


class Forgetting(NamedTuple):
    """Paired changes on anchors; below zero is worse."""

    pass_1: Interval
    pass_k: Interval
    attrition: Interval  # share of all anchors that left the support
    significant: bool  # whether pass@1 fell by more than two standard errors


def forgetting(before: Counts, after: Counts, k: int, seed: int = 0) -> Forgetting:
    """What changed on the anchors; those with fewer than k samples on a side are left out of `pass_k`."""
    change_M = rate_change(before, after, 1)
    return Forgetting(
        pass_1=bootstrap(change_M, seed, bounds=DIFFERENCE),
        pass_k=bootstrap(rate_change(before, after, k), seed, bounds=DIFFERENCE),
        attrition=bootstrap(attrition(before, after), seed),
        significant=fell(change_M),
    )


def rate_change(before: Counts, after: Counts, k: int) -> Floats:
    """pass@k after, less before. Shape (M,), in [-1, 1]; NaN where a side has fewer than k samples."""
    return pass_at_k(*after, k) - pass_at_k(*before, k)


def attrition(before: Counts, after: Counts) -> Floats:
    """1 for each anchor solved before and never after, unless luck explains it, else 0. Shape (M,), NaN unmeasured.

    The policy before is a teacher of what was lost: at its rate, none of the n samples after would be right with
    probability under 5%. What luck alone still puts there is for `support_sets` to subtract.
    """
    return teacher_novelty(*after, *before)


def fell(change_M: Floats, errors: float = 2.0) -> bool:
    """Whether the mean change lies below zero by more than so many standard errors (problems are the sample).

    False if fewer than six changes are known: their spread says too little about their error.
    """
    known_M = change_M[~np.isnan(change_M)]
    if known_M.size < FEWEST_TO_RESAMPLE:
        return False
    return float(known_M.mean()) < -errors * float(known_M.std(ddof=1)) / math.sqrt(known_M.size)
