"""What a teacher could add (2604.13016: distillation needs capability that is genuinely new to the student)."""

from __future__ import annotations

import numpy as np

from posttrain.diagnosis.passk import Floats
from posttrain.diagnosis.support import LUCK


def teacher_novelty(scored_S_M: Floats, correct_S_M: Floats, scored_T_M: Floats, correct_T_M: Floats) -> Floats:
    """1 for each problem that the teacher solves and the student cannot, else 0. Shape (M,).

    A student's zero counts only where it is no luck: at the teacher's rate, none of the student's n samples would be
    right with probability under 5%: (1 - c_T / n_T)^n_S < .05.
    """
    missed_M = (1 - correct_T_M / scored_T_M) ** scored_S_M
    return ((correct_S_M == 0) & (correct_T_M > 0) & (missed_M < LUCK)).astype(np.float64)


def transfer_bound(pass_1_teacher: float, divergence: float) -> float:
    """Least rate of a student whose rollouts diverge from the teacher by L nats a sequence: [p_T - sqrt(L / 2)]_+.

    Theorem 3.2 of the OPW paper, by Pinsker's inequality; L is KL(student ‖ teacher) summed over a sequence's tokens.
    """
    return max(0.0, pass_1_teacher - float(np.sqrt(max(divergence, 0.0) / 2)))
