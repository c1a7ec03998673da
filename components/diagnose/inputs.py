"""Which of the given evaluations is the policy's own, and which are those that it is compared with.

In a loop every round hands on all evaluations so far: after a rollback the policy's own is not the newest.
"""

from __future__ import annotations

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.lineage import evaluation_among, evaluation_of, made_from
from posttrain.stage import Parents


def measured(parents: Parents) -> Artifact:
    """The evaluation of the policy in question."""
    newest, policy = parents.one("evaluation"), parents.maybe("policy")
    return (policy and evaluation_of(policy.digest, [*parents.all("before"), newest])) or newest


def measured_before(parents: Parents) -> Artifact | None:
    """The evaluation of the policy that it was made from."""
    everything, mine = [*parents.all("before"), parents.one("evaluation")], measured(parents)
    policy = mine.record.parent("policy")
    return evaluation_among(made_from(policy, mine.record.family()), everything, policy.digest) if policy else None


def anchors_of(parents: Parents) -> tuple[Artifact, Artifact] | None:
    """The first evaluation on the anchors, and the policy's own; None if there are no two."""
    given = parents.all("anchors")
    if len(given) < 2:
        return None
    own = evaluation_of(str(measured(parents).record.facts["policy"]), given) or given[-1]
    return None if own is given[0] else (given[0], own)
