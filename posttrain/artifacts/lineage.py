"""Which of several evaluations belongs to a policy, or to the nearest policy that it was made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.record import Record
from posttrain.taxonomy import Kind, Role

Family = Mapping[str, Record]
_TEACHERS = ("teacher", "reference")


def made_from(policy: Record, family: Family) -> Iterator[Record]:
    """The policies that it was made from, the nearest first; teachers, that it only learned from, are none of them."""
    generation = [policy]
    while generation:
        generation = [
            family[ref.id]
            for record in generation
            for ref in record.parents
            if ref.kind is Kind.POLICY and ref.role not in _TEACHERS
        ]
        yield from generation


def judged_against(policy: Record, family: Family) -> Iterator[Record]:
    """The policies that show what its last stage did, the best first.

    A stage that consolidates is to hand on what its teacher could, so it is compared with the teacher.
    """
    if policy.role is Role.CONSOLIDATION:
        for ref in policy.parents:
            if ref.role == "teacher":
                yield family[ref.id]
                yield from made_from(family[ref.id], family)
    yield from made_from(policy, family)


def evaluation_of(digest: str, evaluations: Sequence[Artifact]) -> Artifact | None:
    """The evaluation of the policy with that digest, the latest given first."""
    return next((found for found in reversed(evaluations) if found.record.facts["policy"] == digest), None)


def evaluation_among(
    policies: Iterator[Record], evaluations: Sequence[Artifact], other_than: str = ""
) -> Artifact | None:
    """The evaluation of the first of the policies that has one.

    A policy that was rolled back is in nobody's lineage, so its evaluation is passed over. Where the lineage leads to
    none of them (policies brought in from outside have no lineage), it is the last one of another policy.

    Args:
        other_than: the digest of the policy in question.
    """
    others = [found for found in evaluations if found.record.facts["policy"] != other_than]
    found = (evaluation_of(policy.digest, others) for policy in policies)
    return next((each for each in found if each), others[-1] if others else None)
