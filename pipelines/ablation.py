"""The ablation pipeline: candidate recipes in parallel, measured on the same problems, compared in pairs.

Which recipes is decided when the pipeline is started: each branch is the stage `follow` with another recipe.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from kfp import compiler, dsl
from posttrain.components.catalogue import load_stage
from posttrain.pipelines.compiler import docstring, load_component
from posttrain.pipelines.scheduling import Scheduling, checkpoints, in_loop, parameters, run_time, schedule, spread
from posttrain.pipelines.signatures import NOTHING, Defaults, signed

_TEXT: dict[str, tuple[Any, str]] = {
    "base": (inspect.Parameter.empty, "The policy that every candidate starts from (path, file:// or s3://)."),
    "problems": (inspect.Parameter.empty, "Training problems: rows with prompt, verifier and reference."),
    "held_out": (inspect.Parameter.empty, "Held-out problems that every candidate is measured on."),
    "demos": ("", "Demonstrations; empty if no candidate needs them."),
    "preferences": ("", "Preferences; empty if no candidate needs them."),
    "teacher": ("", "A stronger policy; empty if no candidate needs one."),
}
TITLE = "Compare recipes on the same problems"
_CANDIDATES = "The candidates: [{label, recipe}], a recipe being YAML text or a named one whose inputs are those above."
_STAGE_SETTINGS = "Other settings of the recipes' stages, by stage or room."
_EVALUATION = {"samples": 64, "max_new_tokens": 512, "temperature": 1.0}


def compile_ablation(
    path: Path, scheduling: Scheduling | None = None, defaults: Defaults = NOTHING, called: str = ""
) -> None:
    """Write the ablation pipeline as YAML; see `compile_recipe`."""
    compiler.Compiler().compile(build_ablation(scheduling or Scheduling(), defaults, called or "ablation"), str(path))


def build_ablation(scheduling: Scheduling, defaults: Defaults, called: str) -> Any:
    """The pipeline; the signature holds the scheduling parameters as every compiled recipe does."""

    def pipeline(*positional: Any, **named: Any) -> None:
        _build(scheduling, signature.bind(*positional, **named).arguments)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    texts = [inspect.Parameter(n, kind, default=d, annotation=str) for n, (d, _) in _TEXT.items()]
    own = [
        inspect.Parameter("candidates", kind, annotation=list),
        inspect.Parameter("settings_stages", kind, default={}, annotation=dict),
        inspect.Parameter("settings_evaluation", kind, default=_EVALUATION, annotation=dict),
    ]
    signature = signed(pipeline, [*texts, *own, *parameters(trains=True)], defaults, _docstring())
    return dsl.pipeline(name=called, display_name=TITLE)(pipeline)


def _docstring() -> str:
    told = {name: text for name, (_, text) in _TEXT.items()} | {
        "candidates": _CANDIDATES,
        "settings_stages": _STAGE_SETTINGS,
        "settings_evaluation": "Settings of every evaluation.",
        **{name: entry.help for name, entry in run_time(trains=True).items()},
    }
    return docstring("Candidate recipes in parallel from one base, measured alike and compared in pairs.", told)


def _build(scheduling: Scheduling, values: dict[str, Any]) -> None:
    def task(stage: str, shown: str, where: dict[str, Any] = values, /, **arguments: Any) -> dsl.PipelineTask:
        declared = load_stage(stage)
        arguments |= checkpoints(declared, where) | spread(declared, scheduling, where)
        made = load_component(stage)(**arguments)
        made.set_display_name(shown)
        schedule(made, declared, scheduling, where)
        return made

    base = task("base", "base_policy", uri=values["base"], name="base_policy")
    teacher = task("base", "teacher_policy", uri=values["teacher"], name="teacher_policy", settings={"optional": True})
    held_out = task("prepare", "held_out_problems", uri=values["held_out"], kind="problems", name="held_out_problems")
    problems = task(
        "prepare",
        "train_problems",
        uri=values["problems"],
        kind="problems",
        name="train_problems",
        held_out=held_out.outputs["data"],
    )
    measured = task(
        "evaluate",
        "base_evaluation",
        policy=base.outputs["policy"],
        problems=held_out.outputs["data"],
        name="base_evaluation",
        settings=values["settings_evaluation"],
    )
    # A loop with a name of its own runs, but the backend (2.14) does not find it again to collect from.
    with dsl.ParallelFor(values["candidates"]) as candidate:
        inside = in_loop(scheduling, values)
        trained = task(
            "follow",
            "policy",
            inside,
            base=base.outputs["policy"],
            problems=problems.outputs["data"],
            held_out=held_out.outputs["data"],
            teacher=teacher.outputs["policy"],
            recipe=candidate.recipe,
            name=candidate.label,
            demos=values["demos"],
            preferences=values["preferences"],
            stage_settings=values["settings_stages"],
        )
        evaluation = task(
            "evaluate",
            "evaluation",
            inside,
            policy=trained.outputs["policy"],
            problems=held_out.outputs["data"],
            before_1=measured.outputs["evaluation"],
            name=candidate.label,  # not .name: that is the name of KFP's own loop variable
            settings=values["settings_evaluation"],
        )
    task(
        "contrast",
        "contrast",
        candidates=dsl.Collected(evaluation.outputs["evaluation"]),
        base=measured.outputs["evaluation"],
        name="contrast",
    )
