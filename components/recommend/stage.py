"""Turns a diagnosis into the next steps: the rule that holds, its evidence, and a recipe that can be run.

The rules are data (`posttrain/diagnosis/rules.yaml`) and this project's own. Where intervals straddle a threshold and
the branches differ, the verdict is "undecided", with the smallest comparison that would settle it.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from posttrain.artifacts.artifact import Artifact
from posttrain.diagnosis.diagnosis import read_diagnosis
from posttrain.diagnosis.recommend import Explored, read_recommendation, recommend, write_recommendation
from posttrain.diagnosis.rules import rule_table
from posttrain.progress import Progress
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind


class RecommendSettings(Settings):
    """Whose rules to follow."""

    thresholds: dict[str, float] = Field(default_factory=dict, description="other bounds of the rules, by name")
    train_problems: int = Field(default=0, ge=0, description="training problems, for the cost; 0 = as many as measured")


PARENTS = {
    "diagnosis": ParentSpec(Kind.DIAGNOSIS, help="what was measured"),
    "previous": ParentSpec(Kind.RECOMMENDATION, required=False, help="the recommendation of the round before"),
}


def check_settings(settings: RecommendSettings) -> None:
    """Thresholds must be those of the rules."""
    rule_table().with_thresholds(settings.thresholds)


def run(settings: RecommendSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Apply the rules and write what follows."""
    table = rule_table().with_thresholds(settings.thresholds)
    diagnosis = read_diagnosis(parents.one("diagnosis").path)
    explored = explored_so_far(parents.maybe("previous"), diagnosis.policy_digest)
    here = explored[diagnosis.policy_digest]
    found, uses = recommend(diagnosis, here.path, settings.train_problems, table, here.tried, explored)
    write_recommendation(found, uses, out)
    progress.update(1, 1, f"{found.verdict}: {found.next_step or 'stop'}")
    from posttrain.report.recommendation import recommendation_blocks

    return Work(
        facts={"verdict": found.verdict, "rule": found.rule, "diagnosis": found.diagnosis, "next": found.next_step},
        counts={"steps": len(found.steps), "alternatives": len(found.alternatives)},
        blocks=recommendation_blocks(found),
    )


def explored_so_far(previous: Artifact | None, policy_digest: str) -> dict[str, Explored]:
    """Every policy that the loop has been at, this one among them.

    A policy that it has been at before is one that it fell back to; a new one was made by the last recommended step.
    """
    if previous is None:
        return {policy_digest: Explored(path=[], tried=[])}
    last = read_recommendation(previous.path)
    there = last.explored.get(last.policy_digest, Explored(path=last.taken, tried=last.refused))
    step = [last.next_step] if last.next_step else []
    explored = {**last.explored, last.policy_digest: Explored(path=there.path, tried=[*there.tried, *step])}
    return {policy_digest: Explored(path=[*there.path, *step], tried=[]), **explored}


STAGE = Stage(
    name="recommend",
    output="recommendation",
    makes=Kind.RECOMMENDATION,
    parents=PARENTS,
    settings=RecommendSettings,
    run=run,
    check_settings=check_settings,
    image="control",
    measures=False,
)
