"""What stands around the stages of most recipes: bringing in and measuring before, gate, registry and report after.

`parts/gated.yaml` holds it. A recipe file has it by `extends: gated`, a composed recipe always.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict

from posttrain.errors import RecipeError
from posttrain.recipes.schema import Input, Recipe, StageSpec, as_list

CURRENT = "current"
_LAST_EVALUATION, _ALL_EVALUATIONS = "last_evaluation", "all_evaluations"
_ALWAYS = ("base_policy", "base_evaluation")

Specs = dict[str, StageSpec]


class Frame(BaseModel):
    """The file `parts/gated.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: dict[str, Input]
    opening: Specs
    closing: Specs


@cache
def frame() -> Frame:
    """The opening, the closing, and the inputs that recipes share."""
    text = (resources.files("posttrain.recipes") / "parts" / "gated.yaml").read_text(encoding="utf-8")
    return Frame.model_validate(yaml.safe_load(text))


def framed(recipe: Recipe) -> Recipe:
    """The recipe with the frame around its stages; what nothing uses is left out, what it has itself wins.

    Raises:
        RecipeError: it names no result, or does not evaluate it on the held-out problems.
    """
    stages = {name: spec for name, spec in frame().opening.items() if name not in recipe.stages} | recipe.stages
    evaluations = {
        name: spec.parents.get("policy")
        for name, spec in stages.items()
        if spec.use == "evaluate" and spec.parents.get("problems") == "held_out_problems"
    }
    last = [name for name, policy in evaluations.items() if policy == recipe.result]
    if not last:
        raise RecipeError(
            f"result: no stage evaluates {recipe.result!r} on held_out_problems, which the gate of extends="
            f"{recipe.extends} needs; name the stage that makes the result, and evaluate it"
        )
    # The result's comes last: the report's own numbers are those of the last.
    ordered = [name for name in evaluations if name != last[-1]] + [last[-1]]
    placed: dict[str, str | list[str]] = {CURRENT: recipe.result, _LAST_EVALUATION: last[-1], _ALL_EVALUATIONS: ordered}
    closing = {name: with_parents(spec, placed) for name, spec in frame().closing.items()}
    used = _used({**stages, **{name: spec for name, spec in closing.items() if name not in stages}})
    bound = {key for spec in used.values() for key in spec.bound().values()}
    inputs = {key: entry for key, entry in frame().inputs.items() if key in bound} | recipe.inputs
    return recipe.model_copy(update={"extends": "", "inputs": inputs, "stages": used})


def with_parents(spec: StageSpec, names: Mapping[str, str | list[str]]) -> StageSpec:
    """The stage with its parents' real names, for those that stand for others."""

    def place(value: str | list[str]) -> str | list[str]:
        if isinstance(value, str):
            return names.get(value, value)
        return [name for item in value for name in as_list(names.get(item, item))]

    return spec.model_copy(update={"parents": {role: place(value) for role, value in spec.parents.items()}})


def _used(stages: Specs) -> Specs:
    """Without stages of the opening that nothing is made from."""
    needed = {parent for spec in stages.values() for parent in spec.parent_names()}
    optional = frame().opening.keys() - set(_ALWAYS)
    return {name: spec for name, spec in stages.items() if name not in optional or name in needed}
