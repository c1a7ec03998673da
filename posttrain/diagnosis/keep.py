"""Whether a step is kept or rolled back: what it changed where decisions are made, and what it cost the anchors.

A step is worth what it adds to `(1 - breadth) * pass@1 + breadth * pass@K`. Estimates decide, not whole intervals: a
step that did nothing is cheaply undone, the interval is shown, and the gate judges the result with problems and with a
severity of its own. These rules are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posttrain.artifacts.evaluation import Evaluation
from posttrain.diagnosis.compare import compare
from posttrain.diagnosis.intervals import Interval, paired_difference
from posttrain.diagnosis.passk import largest_k, pass_at_k, usual_samples
from posttrain.diagnosis.roles import TOLERANCE
from posttrain.diagnosis.support import pair
from posttrain.taxonomy import Role

BREADTH = 0.5
ANCHOR_LOSS = 0.02


@dataclass(frozen=True)
class Kept:
    """The decision, and what it rests on."""

    kept: bool
    reason: str


def decide_kept(
    worth: Interval,
    breadth: Interval,
    anchors: Interval | None,
    role: Role | None,
    anchor_loss: float = ANCHOR_LOSS,
) -> Kept:
    """Keep a step or roll it back.

    Args:
        worth: change of what a policy is worth.
        breadth: change of pass@K.
        anchors: change of pass@1 on the anchors since the first round; None = there are none.
        role: what the step was meant to do. One that consolidates brings back breadth at the price of pass@1, which the
            next step is to win back: it is kept for the breadth.
        anchor_loss: largest tolerated loss on the anchors.
    """
    if anchors is not None and anchors.estimate < -anchor_loss:
        return Kept(False, f"pass@1 on the anchors changed by {anchors}, more than {anchor_loss:g} is lost")
    if worth.estimate > 0:
        return Kept(True, f"worth {worth}")
    if role is Role.CONSOLIDATION and breadth.low > TOLERANCE:
        return Kept(True, f"worth {worth}, but it was to bring breadth back: pass@K {breadth}")
    return Kept(False, f"worth {worth}")


def worth_change(before: Evaluation, after: Evaluation, breadth: float = BREADTH, seed: int = 0) -> Interval:
    """Paired change of `(1 - breadth) * pass@1 + breadth * pass@K`, K = half the samples.

    Raises:
        ContractError: the evaluations are not of the same problems.
    """
    pairs = pair(before, after)
    k = largest_k(usual_samples(np.minimum(pairs.before.scored_M, pairs.after.scored_M)))
    before_M, after_M = (
        (1 - breadth) * pass_at_k(side.scored_M, side.correct_M, 1)
        + breadth * pass_at_k(side.scored_M, side.correct_M, k)
        for side in (pairs.before, pairs.after)
    )
    return paired_difference(before_M[:, None], after_M[:, None], seed)[0]


def judge(
    before: Evaluation,
    after: Evaluation,
    role: Role | None,
    anchors: tuple[Evaluation, Evaluation] | None = None,
    *,
    breadth: float = BREADTH,
    anchor_loss: float = ANCHOR_LOSS,
    seed: int = 0,
) -> Kept:
    """`decide_kept` from evaluations.

    Args:
        before: of the policy that the step started from.
        after: of the policy that it made; the same problems.
        anchors: (first round's, now's) on the anchors.
    """
    comparison = compare(before, after, seed=seed)
    lost = compare(*anchors, seed=seed).pass_1.delta if anchors else None
    worth = worth_change(before, after, breadth, seed)
    return decide_kept(worth, comparison.pass_k.delta, lost, role, anchor_loss)
