"""Turns a diagnosis into the next steps: the rule that holds, its evidence, and a recipe that can be run.

The rules are data (`posttrain/diagnosis/rules.yaml`) and this project's own. Where intervals straddle a threshold and
the branches differ, the verdict is "undecided", with the smallest comparison that would settle it.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from posttrain.artifacts.artifact import Artifact
from posttrain.diagnosis.diagnosis import read_diagnosis
from posttrain.diagnosis.recommend import read_recommendation, recommend, write_recommendation
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
    taken, refused = steps_so_far(parents.maybe("previous"), diagnosis.policy_digest)
    found, uses = recommend(diagnosis, taken, settings.train_problems, table, refused)
    write_recommendation(found, uses, out)
    progress.update(1, 1, f"{found.verdict}: {found.next_step or 'stop'}")
    from posttrain.report.recommendation import recommendation_blocks

    return Work(
        facts={"verdict": found.verdict, "rule": found.rule, "diagnosis": found.diagnosis, "next": found.next_step},
        counts={"steps": len(found.steps), "alternatives": len(found.alternatives)},
        blocks=recommendation_blocks(found),
    )


def steps_so_far(previous: Artifact | None, policy_digest: str) -> tuple[list[str], list[str]]:
    """The steps that led to the policy, and those tried from it that were rolled back.

    The last recommendation's step was rolled back if the policy is still the one that it was made for.
    """
    if previous is None:
        return [], []
    last = read_recommendation(previous.path)
    if not last.next_step:
        return last.taken, last.refused
    if last.policy_digest == policy_digest:
        return last.taken, [*last.refused, last.next_step]
    return [*last.taken, last.next_step], []


STAGE = Stage(
    name="recommend",
    output="recommendation",
    makes=Kind.RECOMMENDATION,
    parents=PARENTS,
    settings=RecommendSettings,
    run=run,
    check_settings=check_settings,
    image="control",
)
