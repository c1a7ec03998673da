"""The recipes that measure and choose for themselves: `diagnose`, and `improve` with a given number of rounds.

Rounds are written out, because a pipeline has no loop whose rounds build on each other. A round after the end is
cheap: its evaluation is the one before, and the policy is handed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict

from posttrain.errors import ConfigError
from posttrain.recipes.schema import Input, Recipe, StageSpec

MOST_ROUNDS = 7  # the report takes eight evaluations

Specs = dict[str, StageSpec]


class _Improve(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    opening: Specs
    step: Specs
    closing: Specs


class _Earlier(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: dict[str, Input]
    stages: Specs


class _Parts(BaseModel):
    """The file `parts/loops.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: dict[str, Input]
    opening: Specs
    measure: Specs
    earlier: _Earlier
    improve: _Improve


@cache
def _parts() -> _Parts:
    text = (resources.files("posttrain.recipes") / "parts" / "loops.yaml").read_text(encoding="utf-8")
    return _Parts.model_validate(yaml.safe_load(text))


def diagnose_recipe() -> Recipe:
    """Measure a policy, say what holds it back and what to do next; nothing is trained."""
    parts = _parts()
    problems = parts.opening["held_out_problems"].model_copy(
        update={"settings": {"uri": "${problems}", "kind": "problems"}}
    )
    stages = {**parts.opening, **parts.earlier.stages, "probe_problems": problems}
    del stages["held_out_problems"]
    earlier = {name: name for name in parts.earlier.stages}
    stages |= _placed(parts.measure, {"current": "base_policy", **earlier})
    diagnosis = stages["diagnosis"]
    stages["diagnosis"] = diagnosis.model_copy(update={"parents": {**diagnosis.parents, **earlier}})
    return _recipe(
        "diagnose",
        "Diagnose a policy and recommend the next stage",
        "Measures a policy and says what holds it back, by slice, and what to do next. Nothing is trained.",
        {name: _without(spec, "held_out_problems") for name, spec in stages.items()},
    )


def improve_recipe(rounds: int) -> Recipe:
    """Measure, diagnose, recommend, take the step, and again; then the gate.

    Raises:
        ConfigError: too few or too many rounds.
    """
    if not 1 <= rounds <= MOST_ROUNDS:
        raise ConfigError(f"rounds={rounds}: use 1 to {MOST_ROUNDS}")
    parts = _parts()
    stages = {**parts.opening, **parts.improve.opening}
    outer = {"current": "base_policy", "training": "training_evaluation"}
    for number in range(1, rounds + 1):
        local = {name: f"{name}_{number}" for name in (*parts.measure, *parts.improve.step)}
        placed = _placed({**parts.measure, **parts.improve.step}, {**local, **outer})
        stages |= {local[name]: spec for name, spec in placed.items()}
        outer = {
            "current": local["policy"],
            "before": local["evaluation"],
            "previous": local["recommendation"],
            "anchors_before": "anchors_1",
            "original": "base_policy",
        }
    stages |= _placed(parts.improve.closing, outer)
    evaluations = [*_numbered("evaluation", rounds), "result_evaluation"]
    gathered = {"evaluations": evaluations, "recommendations": _numbered("recommendation", rounds)}
    report = stages["run_report"]
    stages["run_report"] = report.model_copy(update={"parents": {**report.parents, **gathered}})
    return _recipe(
        "improve",
        f"Improve a policy by what it lacks, in up to {rounds} rounds, gated",
        "Measures, diagnoses, takes the recommended step and measures again, until nothing is left to do.",
        stages,
        result=outer["current"],
    )


def _numbered(name: str, rounds: int) -> list[str]:
    return [f"{name}_{number}" for number in range(1, rounds + 1)]


def _recipe(name: str, title: str, description: str, stages: Specs, result: str = "") -> Recipe:
    bound = {key for spec in stages.values() for key in spec.bound().values()}
    known = {**_parts().inputs, **_parts().earlier.inputs}
    inputs = {key: entry for key, entry in known.items() if key in bound}
    source = "this project's rules: docs/rules.md"
    return Recipe(
        name=name, title=title, description=description, source=source, inputs=inputs, stages=stages, result=result
    )


# What some rounds have not got: the first has no round before it, the others have trained on the training problems.
_EARLIER = ("before", "previous", "anchors_before", "original", "training")


def _placed(specs: Specs, names: Mapping[str, str]) -> Specs:
    """Stages with their parents' real names; parents of earlier rounds are left out where there were none."""

    def parents(spec: StageSpec) -> dict[str, str | list[str]]:
        return {
            role: names.get(value, value) if isinstance(value, str) else value
            for role, value in spec.parents.items()
            if not (value in _EARLIER and value not in names)
        }

    return {name: spec.model_copy(update={"parents": parents(spec)}) for name, spec in specs.items()}


def _without(spec: StageSpec, parent: str) -> StageSpec:
    return spec.model_copy(update={"parents": {role: value for role, value in spec.parents.items() if value != parent}})
