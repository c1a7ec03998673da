"""Any recipe, again whenever there is new data: from the champion, gated, registered, and told of.

    data_version → (only if there is new data) the recipe, its gate and its registration → conclude, however it ended

What learns is a pipeline within the pipeline: inside a condition, KFP hands a task only what its parent was given.
"""

from __future__ import annotations

import inspect
from typing import Any

from kfp import dsl
from posttrain.components.catalogue import load_stage
from posttrain.components.data_version.stage import INPUTS, NEW
from posttrain.pipelines.compiler import build_pipeline, described, docstring, load_component, parameter_of
from posttrain.pipelines.scheduling import Scheduling, schedule
from posttrain.pipelines.signatures import NOTHING, Defaults, signed

from posttrain.recipes.retraining import FILLED, retraining
from posttrain.recipes.schema import Recipe

_OWN: dict[str, tuple[Any, str]] = {
    "data": (inspect.Parameter.empty, "Folder of data versions; a version counts once its _SUCCESS is there."),
    "again": (False, "Take the newest version even if a run has decided on it."),
    "link": ("", "Address of the Kubeflow UI, for the message to the webhook."),
    "settings_newest_data": ({}, "Other settings of the search for new data."),
    "settings_conclusion": ({}, "Other settings of the message, as notify_on."),
}
_BROUGHT = "unless the data version brings them."


def build_retrain(recipe: Recipe, scheduling: Scheduling, defaults: Defaults, called: str) -> Any:
    """The pipeline that repeats a recipe; its parameters are the recipe's, without those that it finds itself.

    Raises:
        RecipeError: the recipe has no gate in front of a registry, or lacks an input that repeating needs.
    """
    repeated = retraining(recipe)
    inner = build_pipeline(repeated, scheduling, NOTHING, recipe.name)
    given = inspect.signature(inner.pipeline_func).parameters

    def pipeline(*positional: Any, **named: Any) -> None:
        _build(inner, set(given), scheduling, signature.bind(*positional, **named).arguments)

    parameters = {**_own(), **{name: one for name, one in given.items() if name not in FILLED}}
    for name in parameters.keys() & {"base", *INPUTS}:
        parameters[name] = parameters[name].replace(default="")
    told = described(repeated) | {name: text for name, (_, text) in _OWN.items()}
    told |= {name: f"{told[name].rstrip('.')}; {_BROUGHT}" for name in INPUTS if name in told}
    told["base"] = "The policy to start from while none is registered; later the champion."
    summary = docstring(
        f"Whenever there is new data: {recipe.title}; from the champion, gated.",
        {name: told[name] for name in parameters},
    )
    signature = signed(pipeline, list(parameters.values()), defaults, summary)
    return dsl.pipeline(name=called, display_name=title(recipe))(pipeline)


def title(recipe: Recipe) -> str:
    """The pipeline's, in the UI."""
    return f"Retrain: {recipe.title}"


def _own() -> dict[str, inspect.Parameter]:
    kind, none = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    return {
        name: inspect.Parameter(name, kind, default=default, annotation=str if default is none else type(default))
        for name, (default, _) in _OWN.items()
    }


def _build(inner: Any, wanted: set[str], scheduling: Scheduling, values: dict[str, Any]) -> None:
    def task(stage: str, shown: str, **arguments: Any) -> dsl.PipelineTask:
        made = load_component(stage)(
            registry=values["registry"],
            model=values["model"],
            run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            settings=values[parameter_of(shown)],
            name=shown,
            **arguments,
        )
        made.set_display_name(shown)
        schedule(made, load_stage(stage), scheduling, values)
        return made

    with dsl.ExitHandler(task("conclude", "conclusion", link=values["link"]), name="retraining"):
        fallback = {name: values[name] for name in ("base", *INPUTS) if name in values}
        found = task("data_version", "newest_data", data=values["data"], again=values["again"], **fallback)
        brought = {name: found.outputs[f"{name}_uri"] for name in fallback}
        with dsl.If(found.outputs["Output"] == NEW, name="there is new data"):
            learned = {**values, **brought, "data_version": found.outputs["version"]}
            learned["run"] = dsl.PIPELINE_JOB_ID_PLACEHOLDER
            inner(**{name: value for name, value in learned.items() if name in wanted}).set_display_name("challenger")
