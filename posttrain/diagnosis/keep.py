"""Whether a step is kept or rolled back: what it changed where decisions are made, and what it cost the anchors.

A policy is worth `(1 - breadth) * pass@1 + breadth * pass@K`, and each new one is compared with the best so far. One
that is worth more but lost what the anchors measure, that lost pass@1 on the way to more breadth, or that is about as
good, is provisional: the next step starts from it, and until one is better the best stays the best. Estimates decide,
not whole intervals: a step is cheaply undone, the interval is shown, and the gate judges the result by other problems
and with a severity of its own. These rules are this project's; `DOUBT` was tuned in the study (docs/evidence.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

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
DOUBT = 0.02  # a policy that is worth so little less may be as good: it has not been proven wrong


class Fate(StrEnum):
    """What becomes of a policy that a step made."""

    KEPT = "kept"
    PROVISIONAL = "provisional"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True)
class Judgement:
    """The decision, and what it rests on."""

    fate: Fate
    reason: str


def decide_fate(
    worth: Interval,
    breadth: Interval,
    anchors: Interval | None,
    role: Role | None,
    anchor_loss: float = ANCHOR_LOSS,
) -> Judgement:
    """What becomes of a candidate.

    Args:
        worth: what it is worth, less what the best so far is.
        breadth: its pass@K, less that of the best so far.
        anchors: change of pass@1 on the anchors since the first round; None = there are none.
        role: what its last step was meant to do: one that consolidates may pay for breadth with pass@1.
        anchor_loss: largest tolerated loss on the anchors.
    """
    intact = anchors is None or anchors.estimate >= -anchor_loss
    if worth.estimate > 0:
        if intact:
            return Judgement(Fate.KEPT, f"change in worth {worth}")
        lost = f"pass@1 on the anchors changed by {anchors}, and a loss of {anchor_loss:g} is tolerated"
        return Judgement(Fate.PROVISIONAL, f"change in worth {worth}, but to be mended: {lost}")
    if intact and role is Role.CONSOLIDATION and breadth.low > TOLERANCE:
        return Judgement(Fate.PROVISIONAL, f"change in worth {worth}, but it brought breadth back: pass@K {breadth}")
    if intact and worth.estimate > -DOUBT:
        return Judgement(Fate.PROVISIONAL, f"change in worth {worth}: about as good")
    return Judgement(Fate.ROLLED_BACK, f"change in worth {worth}")


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
) -> Judgement:
    """`decide_fate` from evaluations.

    Args:
        before: of the best policy so far.
        after: of the candidate; the same problems.
        anchors: (first round's, now's) on the anchors.
    """
    comparison = compare(before, after, seed=seed)
    lost = compare(*anchors, seed=seed).pass_1.delta if anchors else None
    worth = worth_change(before, after, breadth, seed)
    return decide_fate(worth, comparison.pass_k.delta, lost, role, anchor_loss)
