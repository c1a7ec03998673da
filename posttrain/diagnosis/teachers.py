"""What a teacher could add (2604.13016: distillation needs capability that is genuinely new to the student).

Suffix M: one value a problem; scored (n) and correct (c) samples of student and teacher on the same problems.
"""

from __future__ import annotations

import numpy as np

from posttrain.diagnosis.passk import Floats, pass_at_k
from posttrain.diagnosis.support import LUCK


def teacher_gap(scored_S_M: Floats, correct_S_M: Floats, scored_T_M: Floats, correct_T_M: Floats) -> Floats:
    """pass@1 of the teacher less that of the student. Shape (M,), in [-1, 1]; NaN where either has no sample."""
    return pass_at_k(scored_T_M, correct_T_M, 1) - pass_at_k(scored_S_M, correct_S_M, 1)


def teacher_novelty(scored_S_M: Floats, correct_S_M: Floats, scored_T_M: Floats, correct_T_M: Floats) -> Floats:
    """1 for each problem that the teacher solves and the student cannot, else 0. Shape (M,); NaN as in `teacher_gap`.

    A student's zero counts only where it is no luck: at the teacher's rate, none of the student's n samples would be
    right with probability under 5%: (1 - c_T / n_T)^n_S < .05.
    """
    missed_M = (1 - pass_at_k(scored_T_M, correct_T_M, 1)) ** scored_S_M
    novel_M = ((correct_S_M == 0) & (correct_T_M > 0) & (missed_M < LUCK)).astype(np.float64)
    return np.where((scored_S_M > 0) & (scored_T_M > 0), novel_M, np.nan)


def transfer_bound(pass_1_teacher: float, divergence: float) -> float:
    """Least rate of a student whose rollouts diverge from the teacher by L nats a sequence: [p_T - sqrt(L / 2)]_+.

    Theorem 3.2 of the OPW paper, by Pinsker's inequality; L is KL(student ‖ teacher) summed over a sequence's tokens,
    so H tokens of L̄ nats each are L = H · L̄. An estimate of L below zero counts as zero.
    """
    return max(0.0, pass_1_teacher - float(np.sqrt(max(divergence, 0.0) / 2)))
