"""Whose evaluation a policy's own is compared with."""

import pytest

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.lineage import evaluation_among, evaluation_of, judged_against, made_from
from posttrain.artifacts.record import Environment, ParentRef, Record
from posttrain.taxonomy import Kind, Role


def policy(name, role=None, **parents):
    """A policy's record; `parents` by role, each a record."""
    refs = [ParentRef(role=r, kind=Kind.POLICY, id=p.id, digest=p.digest) for r, p in parents.items()]
    return Record(
        kind=Kind.POLICY,
        stage="sft",
        method="sft",
        name=name,
        digest=f"digest of {name}",
        files={},
        role=role,
        parents=refs,
        environment=Environment(versions={}),
        started="2026-01-01T00:00:00Z",
        seconds=1,
        ancestors={key: old for parent in parents.values() for key, old in parent.family().items()},
    )


def evaluation(of):
    record = of.model_copy(update={"kind": Kind.EVALUATION, "facts": {"policy": of.digest}})
    return Artifact(of.name, record)


BASE = policy("base")
TEACHER = policy("teacher")
TUNED = policy("tuned", Role.EXPANSION, init=BASE)
SHARP = policy("sharp", Role.RESHAPING, init=TUNED, reference=BASE)
RESTORED = policy("restored", Role.CONSOLIDATION, init=SHARP, teacher=BASE)
TAUGHT = policy("taught", Role.EXPANSION, init=BASE, teacher=TEACHER)
MERGED = policy("merged", Role.CONSOLIDATION, policies=TUNED)


@pytest.mark.parametrize(
    ("of", "made", "judged"),
    [
        (BASE, [], []),
        (SHARP, ["tuned", "base"], ["tuned", "base"]),
        (RESTORED, ["sharp", "tuned", "base"], ["base", "sharp", "tuned", "base"]),
        (TAUGHT, ["base"], ["base"]),
        (MERGED, ["tuned", "base"], ["tuned", "base"]),
    ],
)
def test_what_a_policy_was_made_from_and_what_its_last_stage_is_judged_against(of, made, judged):
    assert [record.name for record in made_from(of, of.family())] == made
    assert [record.name for record in judged_against(of, of.family())] == judged


def test_the_nearest_measured_ancestor_counts_and_a_rolled_back_policy_never():
    aside = policy("aside", Role.RESHAPING, init=TUNED)
    measured = [evaluation(each) for each in (BASE, TUNED, aside)]
    found = evaluation_among(made_from(SHARP, SHARP.family()), measured, SHARP.digest)
    assert found.path == "tuned"
    assert evaluation_among(made_from(SHARP, SHARP.family()), measured[:1], SHARP.digest).path == "base"


def test_a_policy_from_outside_is_compared_with_the_last_one_given_but_never_with_itself():
    measured = [evaluation(TEACHER), evaluation(BASE)]
    assert evaluation_among(made_from(BASE, BASE.family()), measured, BASE.digest).path == "teacher"
    assert evaluation_among(made_from(BASE, BASE.family()), measured[1:], BASE.digest) is None
    assert evaluation_of(BASE.digest, measured) is measured[1]
