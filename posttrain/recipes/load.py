"""Reading a recipe and checking its graph, before anything is compiled or run. All errors are reported at once."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from posttrain.errors import PosttrainError, RecipeError, nearest
from posttrain.recipes.frame import framed
from posttrain.recipes.schema import Recipe, StageSpec, as_list
from posttrain.settings import parse_settings
from posttrain.stage import Stage
from posttrain.taxonomy import METHODS


def named_recipes() -> dict[str, Path]:
    """The recipes that come with the library, by name."""
    folder = Path(str(resources.files("posttrain.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(name_or_path: str, stages: Mapping[str, Stage[Any]]) -> Recipe:
    """A named recipe, or one of the user's own.

    Args:
        stages: the declarations of every stage there is.

    Raises:
        RecipeError: there is no such recipe, or its text or graph is wrong; every complaint in one message.
    """
    named = named_recipes()
    path = named.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise RecipeError(f"no recipe is called {name_or_path!r} and no file is there{nearest(name_or_path, named)}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not text ({error}); a recipe is YAML in UTF-8") from None
    return parse_recipe(text, str(path), stages)


def overlaid(recipe: Recipe, settings: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """`Recipe.overlaid`, where every name must be of a stage or room of the recipe.

    Raises:
        RecipeError: one is not.
    """
    rooms = {spec.use for spec in recipe.stages.values()}
    for stage in settings:
        if stage not in recipe.stages and stage not in rooms:
            raise RecipeError(f"{recipe.name} has no stage {stage!r}{nearest(stage, [*recipe.stages, *rooms])}")
    return recipe.overlaid(settings)


def parse_recipe(text: str, where: str, stages: Mapping[str, Stage[Any]]) -> Recipe:
    """A recipe from YAML text.

    Raises:
        RecipeError: the text or the graph is wrong.
    """
    try:
        recipe = Recipe.model_validate(yaml.safe_load(text))
        recipe = framed(recipe) if recipe.extends else recipe
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: not YAML ({' '.join(str(error).split())})") from None
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None
    except ValidationError as error:
        raise RecipeError(f"{where}: " + "; ".join(_detail(detail) for detail in error.errors())) from None
    check_recipe(recipe, where, stages)
    return recipe


def check_recipe(recipe: Recipe, where: str, stages: Mapping[str, Stage[Any]]) -> None:
    """Raise everything that is wrong with a recipe's graph.

    Raises:
        RecipeError: something is.
    """
    if complaints := check_graph(recipe, stages):
        raise RecipeError(f"{where}: " + "; ".join(complaints))


def _detail(detail: Any) -> str:
    path = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        known = StageSpec.model_fields if path.startswith("stages.") else Recipe.model_fields
        aliases = [field.alias or name for name, field in known.items()]
        return f"unknown key {path}{nearest(str(detail['loc'][-1]), aliases)}"
    return f"{path}: {detail['msg'].removeprefix('Value error, ')}"


def check_graph(recipe: Recipe, stages: Mapping[str, Stage[Any]]) -> list[str]:
    """Everything that is wrong with a recipe's graph; empty if it can be compiled."""
    complaints = []
    for name, spec in recipe.stages.items():
        if spec.use not in stages:
            complaints.append(f"stages.{name}.use: no stage is called {spec.use!r}{nearest(spec.use, stages)}")
            continue
        complaints += _stage_complaints(name, spec, recipe, stages)
    return complaints or _cycle(recipe)


def _stage_complaints(name: str, spec: StageSpec, recipe: Recipe, stages: Mapping[str, Stage[Any]]) -> list[str]:
    stage, where = stages[spec.use], f"stages.{name}"
    complaints = []
    for role, value in spec.parents.items():
        given = as_list(value)
        if role not in stage.parents:
            complaints.append(f"{where}.parents: {spec.use} takes no parent {role!r}{stage.remedy(role)}")
            continue
        if len(given) > stage.parents[role].most:
            complaints.append(f"{where}.parents.{role}: {len(given)} parents, at most {stage.parents[role].most}")
        for parent in given:
            complaints += _parent_complaints(
                f"{where}.parents.{role}", parent, stage.parents[role].kind, recipe, stages
            )
    complaints += [
        f"{where}.parents: {spec.use} needs a parent {role!r} ({need.kind}): {need.help}"
        for role, need in stage.parents.items()
        if need.required and role not in spec.parents
    ]
    if len(spec.when) > 1:
        complaints.append(f"{where}.when: {len(spec.when)} gates; a stage waits for one")
    for gate, verdict in spec.when.items():
        if gate not in recipe.stages or recipe.stages[gate].use != "gate":
            complaints.append(f"{where}.when: {gate!r} is not a gate of this recipe")
        elif stage.image != "control":
            complaints.append(f"{where}.when: {spec.use} holds a model; only stages without one can wait for a gate")
        elif verdict not in ("pass", "fail", "undecided"):
            complaints.append(f"{where}.when.{gate}: {verdict!r}; use pass, fail or undecided")
    return complaints + _settings_complaints(where, spec, recipe, stage)


def _parent_complaints(
    where: str, parent: str, kind: Any, recipe: Recipe, stages: Mapping[str, Stage[Any]]
) -> list[str]:
    if parent not in recipe.stages:
        return [f"{where}: no stage of this recipe is called {parent!r}{nearest(parent, recipe.stages)}"]
    made = recipe.stages[parent]
    if made.use not in stages:
        return []  # reported where that stage stands
    try:
        stage = stages[made.use]
        makes = stage.kind_of(parse_settings(stage.settings, made.checkable(), parent))
    except PosttrainError:
        return []
    return [] if makes is kind else [f"{where}: {parent!r} makes a {makes} artifact where a {kind} is needed"]


def _settings_complaints(where: str, spec: StageSpec, recipe: Recipe, stage: Stage[Any]) -> list[str]:
    complaints = [
        f"{where}.with.{key}: no input is called {used!r}{nearest(used, recipe.inputs)}"
        for key, used in spec.bound().items()
        if used not in recipe.inputs
    ]
    complaints += [
        f"{where}.with.{key}={value!r}: an input is a whole value, not a part of one"
        for key, value in spec.settings.items()
        if "${" in str(value) and key not in spec.bound()
    ]
    complaints += [
        f"{where}.with.{key}: a stage's name is its key, its role stands beside 'use'"
        for key in ("role", "name")
        if key in spec.settings
    ]
    try:
        settings = parse_settings(stage.settings, spec.checkable(), f"{where}.with")
        stage.check_settings(settings)
    except PosttrainError as error:
        text = str(error)
        return [*complaints, text if text.startswith(where) else f"{where}: {text}"]
    promised = METHODS[stage.method_of(settings)].provenance
    if spec.provenance and promised != spec.provenance:
        complaints.append(f"{where}.provenance: {spec.provenance}, but {stage.method_of(settings)} is {promised}")
    return complaints


def _cycle(recipe: Recipe) -> list[str]:
    """The first cycle, as one complaint naming its stages."""
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> list[str]:
        if name in trail:
            return [f"stages: a cycle: {' → '.join([*trail[trail.index(name) :], name])}"]
        if name in done:
            return []
        spec = recipe.stages[name]
        for parent in [*spec.parent_names(), *spec.when]:
            if found := visit(parent, (*trail, name)):
                return found
        done.add(name)
        return []

    return next((found for name in recipe.stages if (found := visit(name, ()))), [])


def in_order(recipe: Recipe) -> list[str]:
    """Stage names so that every stage stands after its parents; otherwise in the recipe's own order."""
    ordered: list[str] = []

    def place(name: str) -> None:
        if name in ordered:
            return
        spec = recipe.stages[name]
        for parent in [*spec.parent_names(), *spec.when]:
            place(parent)
        ordered.append(name)

    for name in recipe.stages:
        place(name)
    return ordered
