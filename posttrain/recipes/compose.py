"""Puts a recipe together from steps: what a recommendation does, and the study with every sequence of them.

`parts/steps.yaml` holds the steps; a step's settings can be changed where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from posttrain.errors import ConfigError, nearest
from posttrain.recipes.frame import CURRENT, framed, with_parents
from posttrain.recipes.schema import Recipe, StageSpec
from posttrain.taxonomy import Provenance, Role

_STEP_POLICY = "policy"


class Step(BaseModel):
    """One step: stages that turn the current policy into the next."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    needs: list[str] = Field(description="optional inputs that it cannot do without")
    role: Role
    provenance: Provenance | None = None
    repeats: bool = Field(default=False, description="may follow itself: it goes on from rollouts of its own")
    stages: dict[str, StageSpec]


class StepUse(BaseModel):
    """A step where it is used: its settings changed, and why it is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: str
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict, description="stage of the step → its settings")
    why: str = ""
    role: Role | None = Field(default=None, description="what it is meant to do here; None = what it usually does")


class Parts(BaseModel):
    """The file `parts/steps.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_evaluation: StageSpec
    steps: dict[str, Step]


@cache
def parts() -> Parts:
    """What there is to compose from."""
    text = (resources.files("posttrain.recipes") / "parts" / "steps.yaml").read_text(encoding="utf-8")
    return Parts.model_validate(yaml.safe_load(text))


def step(name: str) -> Step:
    """A step by name.

    Raises:
        ConfigError: there is none.
    """
    steps = parts().steps
    if name not in steps:
        raise ConfigError(f"no step is called {name!r}{nearest(name, steps)}")
    return steps[name]


def possible(inputs: Sequence[str]) -> list[str]:
    """The steps that can be taken with these optional inputs at hand."""
    return [name for name, entry in parts().steps.items() if set(entry.needs) <= set(inputs)]


def compose(
    name: str,
    title: str,
    uses: Sequence[StepUse],
    description: str = "",
    source: str = "",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Recipe:
    """A recipe of these steps, measured before, between and after, and gated.

    Args:
        settings: room → settings of every stage that uses it; a step's own settings win.

    Raises:
        ConfigError: a step does not exist, or no step is given.
    """
    if not uses:
        raise ConfigError(f"{name}: no step to take")
    current, evaluation = "base_policy", "base_evaluation"
    stages = {evaluation: parts().base_evaluation}
    for number, use in enumerate(uses, start=1):
        suffix = f"_{number}" if len(uses) > 1 else ""
        stages |= _renamed(use, current, suffix)
        current, before = f"{use.step}_policy{suffix}", evaluation
        evaluation = f"{use.step}_evaluation{suffix}"
        stages[evaluation] = _evaluation(current, before)
    recipe = Recipe(
        name=name,
        title=title,
        description=description,
        source=source,
        extends="gated",
        stages=stages,
        result=current,
    )
    whole = framed(recipe)
    return whole.model_copy(
        update={"stages": {key: _with_settings(spec, settings or {}) for key, spec in whole.stages.items()}}
    )


def _renamed(use: StepUse, current: str, suffix: str) -> dict[str, StageSpec]:
    """A step's stages under names of their own."""
    entry = step(use.step)
    if unknown := use.settings.keys() - entry.stages.keys():
        raise ConfigError(f"step {use.step}: no stage {sorted(unknown)[0]!r} in it; it has {', '.join(entry.stages)}")
    names = {local: (f"{use.step}_{local}" if local == _STEP_POLICY else local) + suffix for local in entry.stages} | {
        CURRENT: current
    }
    placed = {}
    for local, spec in entry.stages.items():
        made = with_parents(spec, names)
        makes_next = local == _STEP_POLICY
        placed[names[local]] = made.model_copy(
            update={
                "settings": spec.settings | use.settings.get(local, {}),
                "role": (use.role or entry.role) if makes_next else None,
                "provenance": entry.provenance if makes_next else None,
                "why": use.why or entry.title if makes_next else "",
            }
        )
    return placed


def _evaluation(policy: str, before: str) -> StageSpec:
    pattern = parts().base_evaluation
    return pattern.model_copy(update={"parents": {**pattern.parents, "policy": policy, "before": before}})


def _with_settings(spec: StageSpec, settings: Mapping[str, Mapping[str, Any]]) -> StageSpec:
    return spec.model_copy(update={"settings": {**settings.get(spec.use, {}), **spec.settings}})
