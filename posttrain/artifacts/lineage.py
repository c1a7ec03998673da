"""Which of several artifacts belongs to a policy, or to the nearest policy that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.record import Record
from posttrain.taxonomy import Kind

Family = Mapping[str, Record]


def evaluation_of(digest: str, evaluations: Sequence[Artifact]) -> Artifact | None:
    """The evaluation of the policy with that digest, the latest given first."""
    return next((found for found in reversed(evaluations) if found.record.facts["policy"] == digest), None)


def evaluation_before(policy: Record, family: Family, evaluations: Sequence[Artifact]) -> Artifact | None:
    """The evaluation that a policy's own is to be compared with: that of the nearest policy it was made from.

    A policy that was rolled back is in nobody's lineage, so its evaluation is passed over. Where the lineage leads to
    none of them (policies brought in from outside have no lineage), it is the last one of another policy.

    Args:
        family: records by id, with the policy's ancestors among them.
    """
    generation, seen = [policy], {policy.id}
    while generation:
        refs = [ref for record in generation for ref in record.parents if ref.kind is Kind.POLICY]
        generation = [family[ref.id] for ref in refs if ref.id not in seen]
        seen |= {record.id for record in generation}
        for record in generation:
            if record.digest != policy.digest and (found := evaluation_of(record.digest, evaluations)):
                return found
    others = [found for found in evaluations if found.record.facts["policy"] != policy.digest]
    return others[-1] if others else None
