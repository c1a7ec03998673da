"""Recipe → Kubeflow pipeline: one parameterised pipeline per recipe.

Its parameters are the recipe's inputs, one dict of settings for each stage that has any (the full default object, so
that the UI's JSON editor shows what can be changed) and the scheduling block. The signature is made at compile time,
because KFP reads a pipeline's parameters from its function's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from kfp import compiler, dsl
from posttrain.components.catalogue import load_stage
from posttrain.pipelines.scheduling import CHECKPOINTS, Scheduling, checkpoints, parameters, run_time, schedule, spread
from posttrain.pipelines.signatures import NOTHING, Defaults, signed

from posttrain.recipes.execute import keeps_checkpoints
from posttrain.recipes.load import in_order
from posttrain.recipes.schema import Recipe, StageSpec, as_list
from posttrain.settings import parse_settings

# Settings that a recipe gives on its own, outside a stage's dict; a dict wins, so it may not have their defaults.
_OUTSIDE = {"name", "role", "also"}
# What is no reason to ask a person who starts a run: the recipe's own business, and what every stage has.
_ASIDE = {"also", "optional", "seed", "accept_provenance"}
Builder = Callable[[Recipe, Scheduling, Defaults, str], Any]


def compile_recipe(
    recipe: Recipe,
    path: Path,
    scheduling: Scheduling | None = None,
    defaults: Defaults = NOTHING,
    called: str = "",
    build: Builder | None = None,
) -> None:
    """Write the recipe's pipeline as YAML.

    Args:
        defaults: of run-time parameters, where they are to be others.
        called: the pipeline's name, if not the recipe's.
        build: makes the pipeline; None = `build_pipeline`.

    Raises:
        ConfigError: a default is of no parameter, or of another type.
    """
    built = (build or build_pipeline)(recipe, scheduling or Scheduling(), defaults, called or recipe.name)
    compiler.Compiler().compile(built, str(path))


def build_pipeline(recipe: Recipe, scheduling: Scheduling, defaults: Defaults, called: str) -> Any:
    """The recipe as a KFP pipeline."""

    def pipeline(*positional: Any, **named: Any) -> None:
        # KFP calls the function with its parameters in order.
        values = signature.bind(*positional, **named).arguments
        _build_tasks(recipe, scheduling, values)

    summary = docstring(recipe.description or recipe.title, described(recipe))
    signature = signed(pipeline, _parameters(recipe), defaults, summary)
    return dsl.pipeline(name=called, display_name=recipe.title)(pipeline)


def _parameters(recipe: Recipe) -> list[inspect.Parameter]:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    inputs = [
        inspect.Parameter(
            name, kind, default=inspect.Parameter.empty if i.default is None else i.default, annotation=str
        )
        for name, i in recipe.inputs.items()
    ]
    stages = [
        inspect.Parameter(parameter_of(name), kind, default=stage_defaults(name, spec), annotation=dict)
        for name, spec in recipe.stages.items()
        if is_tunable(name, spec)
    ]
    return [*inputs, *stages, *parameters(_trains(recipe))]


def _trains(recipe: Recipe) -> bool:
    return any(keeps_checkpoints(load_stage(spec.use)) for spec in recipe.stages.values())


def parameter_of(stage: str) -> str:
    """The parameter with a stage's settings; a prefix, because the UI's form is sorted by name."""
    return f"settings_{stage}"


def is_tunable(name: str, spec: StageSpec) -> bool:
    """Whether a stage has settings worth a field of the form."""
    return bool(stage_defaults(name, spec).keys() - _ASIDE)


def stage_defaults(name: str, spec: StageSpec) -> dict[str, Any]:
    """A stage's settings as the recipe has them, with the stage's own defaults for the rest; inputs left out."""
    stage = load_stage(spec.use)
    settings = parse_settings(stage.settings, spec.checkable(), f"stages.{name}.with")
    outside = _OUTSIDE | spec.bound().keys() | (CHECKPOINTS.keys() - spec.settings.keys())
    # No nulls: KFP's compiler refuses them in a default.
    defaults = settings.model_dump(mode="json", exclude=outside, exclude_none=True)
    also = _placed(spec)[1]
    return {**defaults, "also": also} if also else defaults


def described(recipe: Recipe) -> dict[str, str]:
    """What each parameter of a recipe's pipeline is."""
    given = {**recipe.inputs, **run_time(_trains(recipe))}
    stages = {
        parameter_of(name): f"Settings of {name} ({one.use}). {one.why}"
        for name, one in recipe.stages.items()
        if is_tunable(name, one)
    }
    return {name: entry.help for name, entry in given.items()} | stages


def docstring(summary: str, told: Mapping[str, str]) -> str:
    """Google style, which is where KFP takes the parameters' descriptions from."""
    return "\n".join([summary, "", "Args:", *(f"    {name}: {text}".rstrip() for name, text in told.items())])


def _build_tasks(recipe: Recipe, scheduling: Scheduling, values: dict[str, Any]) -> None:
    tasks: dict[str, dsl.PipelineTask] = {}
    for name in in_order(recipe):
        spec = recipe.stages[name]
        with _conditions(spec, tasks):
            stage = load_stage(spec.use)
            arguments = _arguments(name, spec, recipe, tasks, values) | spread(stage, scheduling, values)
            task = load_component(spec.use)(**arguments)
            task.set_display_name(name)
            schedule(task, stage, scheduling, values)
        tasks[name] = task


def _conditions(spec: StageSpec, tasks: dict[str, dsl.PipelineTask]) -> Any:
    """`when` as a dsl.If on the gate's return value: the local runner does not resolve a named output there."""
    for gate, verdict in spec.when.items():
        return dsl.If(tasks[gate].outputs["Output"] == verdict, name=f"{gate} says {verdict}")
    return nullcontext()


def _placed(spec: StageSpec) -> tuple[dict[str, str], dict[str, str]]:
    """A component's artifact inputs, each parent once: (input → parent, and the setting `also` for the other roles)."""
    stage = load_stage(spec.use)
    inputs: dict[str, str] = {}
    roles: dict[str, str] = {}
    also: dict[str, str] = {}
    for role, given in spec.parents.items():
        names = as_list(given)
        mine = [parent for parent in names if parent not in roles]
        many = stage.parents[role].most > 1
        inputs |= {f"{role}_{n}" if many else role: parent for n, parent in enumerate(mine, start=1)}
        also |= {
            f"{role}_{n}" if many else role: roles[parent] for n, parent in enumerate(names, start=1) if parent in roles
        }
        roles |= dict.fromkeys(mine, role)
    return inputs, also


def load_component(stage: str) -> Any:
    """A stage's KFP component."""
    return getattr(import_module(f"posttrain.components.{stage}.component"), stage)


def _arguments(
    name: str, spec: StageSpec, recipe: Recipe, tasks: dict[str, dsl.PipelineTask], values: dict[str, Any]
) -> dict[str, Any]:
    """A component's arguments: parents, the settings that are inputs, and the stage's dict."""
    settings = values[parameter_of(name)] if is_tunable(name, spec) else stage_defaults(name, spec)
    arguments: dict[str, Any] = {"name": name, "settings": settings}
    arguments |= checkpoints(load_stage(spec.use), values)
    if spec.role:
        arguments["role"] = spec.role.value
    for place, parent in _placed(spec)[0].items():
        arguments[place] = tasks[parent].outputs[load_stage(recipe.stages[parent].use).output]
    required = {
        key for key, spec_ in (load_component(spec.use).component_spec.inputs or {}).items() if not spec_.optional
    }
    # KFP wants a value for a required parameter beside the one in the dict.
    arguments |= {key: value for key, value in spec.settings.items() if key in required}
    return arguments | {key: values[name] for key, name in spec.bound().items()}
