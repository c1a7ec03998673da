"""The recipes that measure and choose for themselves: `diagnose`, and `improve` with a given number of rounds.

Rounds are written out, because a pipeline has no loop whose rounds build on each other. A round after the end is
cheap: its evaluation is the one before, and the policy is handed on.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict

from posttrain.errors import ConfigError
from posttrain.recipes.frame import with_parents
from posttrain.recipes.schema import Input, Recipe, StageSpec

MOST_ROUNDS = 7  # the report takes eight evaluations

Specs = dict[str, StageSpec]
Names = dict[str, str | list[str]]


class _Improve(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    opening: Specs
    step: Specs
    keep: Specs
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
    diagnose: Specs
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
    names: Names = {"candidate": "base_policy", "current": "base_policy", **{n: n for n in parts.earlier.stages}}
    names["all_anchors"] = ["anchors_before", "anchors"]
    stages |= _placed({**parts.measure, **parts.diagnose}, names)
    diagnosis = stages["diagnosis"]
    extra = {name: name for name in parts.earlier.stages if name in _DIAGNOSED}
    stages["diagnosis"] = diagnosis.model_copy(update={"parents": {**diagnosis.parents, **extra}})
    return _recipe(
        "diagnose",
        "Diagnose a policy and recommend the next stage",
        "Measures a policy and says what holds it back, by slice, and what to do next. Nothing is trained.",
        {name: _without(spec, "held_out_problems") for name, spec in stages.items()},
    )


# What `diagnose` takes of `earlier` under its own name.
_DIAGNOSED = ("before", "scaffold", "original", "reward_model", "audit")


def improve_recipe(rounds: int) -> Recipe:
    """Measure, diagnose, recommend, take the step, keep what it made or roll it back, and again; then the gate.

    Raises:
        ConfigError: too few or too many rounds.
    """
    if not 1 <= rounds <= MOST_ROUNDS:
        raise ConfigError(f"rounds={rounds}: use 1 to {MOST_ROUNDS}")
    parts = _parts()
    stages = {**parts.opening, **parts.improve.opening}
    names: Names = dict.fromkeys(("candidate", "current", "best"), "base_policy")
    names["training"] = "training_evaluation"
    for number in range(1, rounds + 1):
        stages |= _measured(number, names)
        stages |= _round({**parts.diagnose, **parts.improve.step}, number, names)
        names |= {
            "candidate": f"policy_{number}",
            "best_before": names["best"],
            "previous": f"recommendation_{number}",
            "original": "base_policy",
        }
        names.pop("training", None)
    stages |= _measured(rounds + 1, names)
    del stages[f"current_{rounds}"]  # nothing goes on from it
    stages |= _placed(parts.improve.closing, names)
    gathered = {"evaluations": names["evaluations"], "recommendations": _numbered("recommendation", rounds)}
    report = stages["run_report"]
    stages["run_report"] = report.model_copy(update={"parents": {**report.parents, **gathered}})
    return _recipe(
        "improve",
        f"Improve a policy by what it lacks, in up to {rounds} rounds, gated",
        "Measures, diagnoses, takes the recommended step, measures again and undoes what did not pay.",
        stages,
        result=str(names["best"]),
    )


def _measured(number: int, names: Names) -> Specs:
    """What the last step made, measured; and what becomes of it. Changes `names`."""
    parts = _parts()
    if number > 1:
        names |= {"before": _numbered("evaluation", number - 1), "anchors_before": _numbered("anchors", number - 1)}
    stages = _round(parts.measure, number, names)
    names |= {
        "evaluation": f"evaluation_{number}",
        "evaluations": _numbered("evaluation", number),
        "anchors": f"anchors_{number}",
        "all_anchors": _numbered("anchors", number),
        "first_anchors": "anchors_1",
    }
    if number > 1:
        stages |= _round(parts.improve.keep, number - 1, names)
        names |= {name: f"{name}_{number - 1}" for name in parts.improve.keep}
    return stages


def _round(specs: Specs, number: int, names: Names) -> Specs:
    """The stages of one round, under names of their own."""
    local: Names = {name: f"{name}_{number}" for name in specs}
    return {str(local[name]): spec for name, spec in _placed(specs, {**names, **local}).items()}


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


def _placed(specs: Specs, names: Names) -> Specs:
    """Stages with their parents' real names; parents of earlier rounds are left out where there were none."""

    def place(spec: StageSpec) -> StageSpec:
        lacking = {role for role, value in spec.parents.items() if value in _EARLIER and value not in names}
        kept = {role: value for role, value in spec.parents.items() if role not in lacking}
        return with_parents(spec.model_copy(update={"parents": kept}), names)

    return {name: place(spec) for name, spec in specs.items()}


def _without(spec: StageSpec, parent: str) -> StageSpec:
    return spec.model_copy(update={"parents": {role: value for role, value in spec.parents.items() if value != parent}})
