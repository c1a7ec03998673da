"""From a diagnosis to a recommendation: the rule and its evidence, the next steps as a recipe, what would change it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from posttrain.diagnosis.cost import Cost, cost_of
from posttrain.diagnosis.decide import Branch, Decision, decide, settling
from posttrain.diagnosis.diagnosis import Diagnosis
from posttrain.diagnosis.hyperparameters import Choice, use_of
from posttrain.diagnosis.intervals import short
from posttrain.diagnosis.rules import Answer, RuleTable, Tested, rule_table
from posttrain.errors import DataError
from posttrain.recipes.compose import StepUse, compose, step
from posttrain.recipes.schema import Recipe

RECOMMENDATION_FILE, RECIPE_FILE, NEXT_FILE = "recommendation.json", "recipe.yaml", "next.yaml"


class Alternative(BaseModel):
    """A rule that may hold, and where it leads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str
    title: str
    answer: str
    evidence: list[str]
    steps: list[str]
    lacking: list[str] = Field(description="inputs that would allow a remedy")


class Explored(BaseModel):
    """A policy that the loop has been at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: list[str] = Field(description="the steps that led to it")
    tried: list[str] = Field(description="steps taken from it")


class Recommendation(BaseModel):
    """What to do next, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    verdict: Literal["go", "stop", "undecided"]
    rule: str
    diagnosis: str
    title: str
    remedy: str
    because: list[str]
    evidence: list[str]
    steps: list[str] = Field(description="what is left to do, the next one first; empty = stop")
    lacking: list[str]
    notes: list[str]
    choices: list[dict[str, Any]] = Field(description="hyperparameters chosen from the measurement, with reasons")
    cost: str
    alternatives: list[Alternative] = Field(description="rules that the evidence leaves open")
    would_change: list[str]
    ablation: list[str] = Field(description="the smallest comparison that settles an open question")
    taken: list[str] = Field(description="steps taken so far, this one not included")
    refused: list[str] = Field(default_factory=list, description="steps tried from here before")
    policy_digest: str = Field(default="", description="the policy that it was made for")
    explored: dict[str, Explored] = Field(default_factory=dict, description="every policy so far, by its digest")

    @property
    def next_step(self) -> str:
        """The step to take now; empty = stop."""
        return self.steps[0] if self.steps else ""


def recommend(
    diagnosis: Diagnosis,
    taken: Sequence[str] = (),
    problems: int = 0,
    table: RuleTable | None = None,
    refused: Sequence[str] = (),
    explored: Mapping[str, Explored] | None = None,
) -> tuple[Recommendation, list[StepUse]]:
    """What to do next.

    Args:
        taken: steps taken so far, oldest first.
        refused: steps tried from this policy before.
        explored: every policy that a loop has been at, by digest.
        problems: training problems, for the cost; 0 = as many as were measured.

    Returns:
        The recommendation, and its steps with their settings.
    """
    table = table or rule_table()
    decision = decide(diagnosis.of_slice(), diagnosis.inputs, taken, table, refused)
    best = decision.best
    uses, choices = _uses(best, diagnosis, table)
    verdict: Literal["go", "stop", "undecided"] = (
        "undecided" if not decision.decided else "go" if best.steps else "stop"
    )
    cost = sum((cost_of(use, diagnosis, problems or diagnosis.problems) for use in uses), Cost(0, 0, 0))
    found = Recommendation(
        verdict=verdict,
        rule=best.rule.id,
        diagnosis=best.rule.diagnosis,
        title=best.rule.title,
        remedy=best.rule.remedy,
        because=best.rule.because,
        evidence=[str(tested) for tested in best.tested if tested.measured is not None],
        steps=list(best.steps),
        lacking=list(best.lacking),
        notes=[f"{note.rule.id} {note.rule.title}: {note.rule.remedy}" for note in decision.notes],
        choices=[dict(zip(("step", *Choice._fields), (name, *choice), strict=True)) for name, choice in choices],
        cost=str(cost) if uses else "",
        alternatives=[_alternative(branch) for branch in decision.branches if branch is not best],
        would_change=_would_change(decision),
        ablation=_ablation(decision, diagnosis),
        taken=list(taken),
        refused=list(refused),
        policy_digest=diagnosis.policy_digest,
        explored=dict(explored or {}),
    )
    return found, uses


def recipe_of(
    found: Recommendation, uses: Sequence[StepUse], settings: Mapping[str, Mapping[str, Any]] | None = None
) -> Recipe:
    """The recommended steps as a recipe that `posttrain run` and `compile` take."""
    return compose(
        "recommended",
        " → ".join(step(use.step).title for use in uses),
        uses,
        description=f"{found.rule}: {found.title}. {found.remedy}",
        source="; ".join(found.because),
        settings=settings,
    )


def recipe_yaml(recipe: Recipe) -> str:
    """A recipe as a person would write it."""
    content = recipe.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return yaml.safe_dump(content, sort_keys=False, width=110, allow_unicode=True)


def write_recommendation(found: Recommendation, uses: Sequence[StepUse], directory: Path) -> None:
    """The recommendation, the recipe of all its steps and that of the next one alone."""
    text = json.dumps(found.model_dump(mode="json"), indent=1)
    (directory / RECOMMENDATION_FILE).write_text(text + "\n", encoding="utf-8")
    if uses:
        (directory / RECIPE_FILE).write_text(recipe_yaml(recipe_of(found, uses)), encoding="utf-8")
        (directory / NEXT_FILE).write_text(recipe_yaml(recipe_of(found, uses[:1])), encoding="utf-8")


def read_recommendation(directory: Path) -> Recommendation:
    """A stored recommendation.

    Raises:
        DataError: there is none.
    """
    file = directory / RECOMMENDATION_FILE
    if not file.is_file():
        raise DataError(f"{directory}: no {RECOMMENDATION_FILE} in it; it is not a recommendation")
    return Recommendation.model_validate(json.loads(file.read_text(encoding="utf-8")))


def _uses(best: Branch, diagnosis: Diagnosis, table: RuleTable) -> tuple[list[StepUse], list[tuple[str, Choice]]]:
    uses, choices, after = [], [], ""
    for name in best.steps:
        use, chosen = use_of(name, diagnosis, best.rule, table, after)
        uses.append(use)
        choices += [(use.step, choice) for choice in chosen]
        after = name
    return uses, choices


def _alternative(branch: Branch) -> Alternative:
    return Alternative(
        rule=branch.rule.id,
        title=branch.rule.title,
        answer=branch.answer,
        evidence=[str(tested) for tested in branch.tested if tested.measured is not None],
        steps=list(branch.steps),
        lacking=list(branch.lacking),
    )


def _would_change(decision: Decision) -> list[str]:
    """The nearest threshold of each rule in play, and what nobody measured for the rules before."""
    changes = []
    for branch in decision.branches:
        near = [tested for tested in branch.tested if tested.measured is not None]
        if near:
            closest = min(near, key=_distance)
            side = "below" if closest.at_least else "at or above"
            changes.append(
                f"{closest.signal} {side} {short(closest.bound)} ({branch.rule.id}; it is {closest.measured})"
            )
    before = [entry for entry in decision.applied if entry.answer is Answer.UNMEASURED and not entry.rule.note]
    missing = dict.fromkeys(tested.signal for entry in before for tested in entry.tested if tested.measured is None)
    if missing:
        changes.append(f"not measured: {', '.join(missing)}")
    return changes


def _distance(tested: Tested) -> float:
    return abs(tested.measured.estimate - tested.bound) if tested.measured else 0.0


def _ablation(decision: Decision, diagnosis: Diagnosis) -> list[str]:
    """Branches to run beside each other, and how many problems would make the open conditions clear."""
    if decision.decided:
        return []
    branches = dict.fromkeys(branch.next_step or "stop" for branch in decision.branches)
    open_conditions = [
        tested for branch in decision.branches for tested in branch.tested if tested.answer is Answer.UNDECIDED
    ]
    needed = max(settling(tested, diagnosis.problems) for tested in open_conditions)
    return [
        f"run {' and '.join(branches)} once each from here (one seed) and compare them on the same problems",
        f"or measure {needed} problems instead of {diagnosis.problems}: {'; '.join(map(str, open_conditions))}",
    ]
