"""Runs a recipe's stages one after the other in this process: inside a pod that follows a recipe, and in the study.

The artifacts are those that the same stages would leave as tasks of a pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.record import Record, read_record
from posttrain.errors import ConfigError, RecipeError
from posttrain.recipes.load import in_order
from posttrain.recipes.schema import Recipe, StageSpec, as_list
from posttrain.settings import parse_settings
from posttrain.stage import Stage, execute
from posttrain.storage.references import obtain
from posttrain.taxonomy import Kind

Stages = Mapping[str, Stage[Any]]

# What a whole recipe is told of checkpoints, and each of its stages that trains then is.
SHARED_SETTINGS = ("checkpoint_uri", "checkpoint_steps", "checkpoint_seconds")


def result_of(recipe: Recipe, stages: Stages) -> str:
    """The stage whose policy the recipe is for.

    Raises:
        RecipeError: no stage makes a policy, or `result` names none of them.
    """
    makers = [name for name in in_order(recipe) if kind_of(name, recipe, stages) is Kind.POLICY]
    if recipe.result and recipe.result not in makers:
        raise RecipeError(f"{recipe.name}: result={recipe.result!r} is no stage that makes a policy")
    if not makers:
        raise RecipeError(f"{recipe.name}: no stage makes a policy")
    return recipe.result or makers[-1]


def kind_of(name: str, recipe: Recipe, stages: Stages) -> Kind:
    """What a stage of the recipe makes."""
    spec = recipe.stages[name]
    stage = stages[spec.use]
    return stage.kind_of(parse_settings(stage.settings, spec.checkable(), name))


def keeps_checkpoints(stage: Stage[Any]) -> bool:
    """Whether it can be told where its checkpoints go."""
    return SHARED_SETTINGS[0] in stage.settings.model_fields


def needed_for(target: str, recipe: Recipe) -> list[str]:
    """A stage and everything that it is made from, in an order in which they can run."""
    needed: set[str] = set()
    queue = [target]
    while queue:
        name = queue.pop()
        if name not in needed:
            needed.add(name)
            queue += recipe.stages[name].parent_names()
    return [name for name in in_order(recipe) if name in needed]


def run_stages(
    recipe: Recipe,
    stages: Stages,
    inputs: Mapping[str, str],
    directory: Path,
    only: str = "",
    given: Mapping[str, Path] | None = None,
    on_stage: Callable[[str, int, int], None] | None = None,
    checkpoints: Mapping[str, Any] | None = None,
    train: Callable[..., Record] = execute,
) -> dict[str, Path]:
    """Run a recipe; each stage's artifact is at `directory`/stage, its page at `directory`/stage.html.

    A stage whose artifact lies there already is not run again; one that waits for a gate (`when`) runs only if the gate
    said so.

    Args:
        inputs: the recipe's inputs by name.
        only: run this stage and what it needs; empty = all.
        given: artifacts that stand in for stages, by the stage's name.
        on_stage: called with (name, stages done, stages in all) before each stage.
        checkpoints: settings of every stage that keeps checkpoints; a stage's own win.
        train: what runs the training stages, in place of `execute`.

    Returns:
        stage → path of its artifact.

    Raises:
        PosttrainError: an input is missing, or a stage fails.
    """
    paths = dict(given or {})
    names = [name for name in (needed_for(only, recipe) if only else in_order(recipe)) if name not in paths]
    for number, name in enumerate(names):
        spec = recipe.stages[name]
        if not _wanted(spec, paths):
            continue
        if on_stage:
            on_stage(name, number, len(names))
        paths[name] = directory / name
        if not paths[name].exists():
            stage = stages[spec.use]
            shared = checkpoints if checkpoints and keeps_checkpoints(stage) else {}
            settings = {**shared, "name": name, "role": spec.role, **_settings(name, spec, recipe, inputs)}
            parents = {role: [paths[parent] for parent in as_list(value)] for role, value in spec.parents.items()}
            run = train if stage.trains else execute
            run(stage, parents, settings, paths[name], directory / f"{name}.html")
    return paths


def last_policy(paths: Mapping[str, Path], recipe: Recipe, stages: Stages, files: bool = True) -> Artifact:
    """The recipe's result among the artifacts that `run_stages` made; `files` as in `obtain`."""
    return obtain(paths[result_of(recipe, stages)], Kind.POLICY, files)


def _wanted(spec: StageSpec, paths: Mapping[str, Path]) -> bool:
    def verdict(gate: str) -> Record:
        return read_record(paths[gate], verify=False)

    return all(verdict(gate).facts.get("verdict") == needed for gate, needed in spec.when.items())


def _settings(name: str, spec: StageSpec, recipe: Recipe, inputs: Mapping[str, str]) -> dict[str, Any]:
    settings = dict(spec.settings)
    for setting, key in spec.bound().items():
        value = inputs.get(key, recipe.inputs[key].default)
        if value is None:
            raise ConfigError(f"{recipe.name}: stage {name!r} needs the input {key!r}: {recipe.inputs[key].help}")
        settings[setting] = value
    return settings
