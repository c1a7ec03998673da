"""Takes the recommended next step, or runs a whole recipe, in one pod: its method is chosen when it runs.

A pipeline's graph is fixed when it is compiled, before anything was measured; this stage is where the measured choice
enters it. The recipe's stages run one after the other as they would as tasks, and what comes out is the last one's own
artifact with its own record. Where there is nothing to do, the policy is handed on as it is.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from posttrain.components.catalogue import load_stages
from pydantic import Field

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import size_of
from posttrain.artifacts.record import Record
from posttrain.diagnosis.recommend import NEXT_FILE, read_recommendation
from posttrain.errors import USER_ERROR, ConfigError, ContractError, PosttrainError
from posttrain.progress import Progress
from posttrain.recipes.execute import SHARED_SETTINGS, last_policy, needed_for, result_of, run_stages
from posttrain.recipes.load import check_recipe, load_recipe, parse_recipe
from posttrain.recipes.schema import Recipe
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work, execute
from posttrain.storage.uris import segment
from posttrain.taxonomy import Kind


class FollowSettings(Settings):
    """What to run."""

    recipe: str = Field(default="", description="a recipe as YAML text, or a named one; empty = the recommendation's")
    demos: str = Field(default="", description="the recipe's input demos, as a URI")
    preferences: str = Field(default="", description="the recipe's input preferences, as a URI")
    inputs: dict[str, str] = Field(default_factory=dict, description="its other inputs that are no parents, as URIs")
    stage_settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="other settings of its stages, by stage or room; win over the recipe's"
    )
    checkpoint_uri: str = Field(default="", description="where its training stages are kept; empty = nowhere")
    checkpoint_steps: int = Field(default=0, ge=0, description="optimizer steps between checkpoints; 0 = by time")
    checkpoint_seconds: float = Field(default=600.0, gt=0, description="seconds between them, where not by steps")
    nodes: dict[str, Any] = Field(
        default_factory=dict, description="how many nodes its training stages get, as TrainJobs, and what each is given"
    )
    on_undecided: Literal["stop", "lean"] = Field(
        default="stop", description="where the recommendation is undecided: stop, or take the likelier branch"
    )
    on_failure: Literal["fail", "hand_on"] = Field(
        default="fail", description="where a step cannot be taken: fail, or hand the policy on as it is and say why"
    )


# Each is the recipe's input of that name.
PARENTS = {
    "base": ParentSpec(Kind.POLICY, help="the policy to start from"),
    "problems": ParentSpec(Kind.PROBLEMS, required=False, help="training problems"),
    "held_out": ParentSpec(Kind.PROBLEMS, required=False, help="problems that nothing may be trained on"),
    "teacher": ParentSpec(Kind.POLICY, required=False, help="a stronger policy"),
    "original": ParentSpec(Kind.POLICY, required=False, help="an earlier policy to bring back; by default the base"),
    "recommendation": ParentSpec(Kind.RECOMMENDATION, required=False, help="what to do next"),
}


def check(settings: FollowSettings, parents: Parents) -> None:
    """The recipe must be one, and its inputs at hand."""
    recipe = recipe_to_run(settings, parents)
    if recipe is None:
        return
    target, held, inputs = result_of(recipe, load_stages()), given(recipe, parents), inputs_of(settings)
    for name in needed_for(target, recipe):
        lacking = [key for key in recipe.stages[name].bound().values() if not inputs.get(key)]
        if name not in held and lacking:
            raise ContractError(f"follow: {recipe.name} needs {lacking[0]!r}: {recipe.inputs[lacking[0]].help}")


def inputs_of(settings: FollowSettings) -> dict[str, str]:
    """The recipe's inputs that are URIs."""
    return {"demos": settings.demos, "preferences": settings.preferences, **settings.inputs}


def recipe_to_run(settings: FollowSettings, parents: Parents) -> Recipe | None:
    """The recipe with its settings changed; None if there is nothing to do.

    Raises:
        ConfigError: neither a recipe nor a recommendation is given.
        RecipeError: the recipe is wrong.
    """
    stages, recommendation = load_stages(), parents.maybe("recommendation")
    if "\n" in settings.recipe:
        recipe = parse_recipe(settings.recipe, "follow: recipe", stages)
    elif settings.recipe:
        recipe = load_recipe(settings.recipe, stages)
    elif recommendation is None:
        raise ConfigError("follow: give a recipe, or a recommendation as a parent")
    elif not _wanted(recommendation, settings.on_undecided):
        return None
    else:
        text = (recommendation.path / NEXT_FILE).read_text(encoding="utf-8")
        recipe = parse_recipe(text, "follow: recommendation", stages)
    recipe = recipe.overlaid(settings.stage_settings)
    check_recipe(recipe, "follow: stage_settings", stages)
    return recipe


def _wanted(recommendation: Artifact, on_undecided: str) -> bool:
    found = read_recommendation(recommendation.path)
    go = found.verdict == "go" or (found.verdict == "undecided" and on_undecided == "lean")
    return go and bool(found.next_step)


def given(recipe: Recipe, parents: Parents) -> dict[str, Path]:
    """The recipe's stages that a parent stands in for: those that would bring in the input of its name."""
    held = {"original": parents.one("base").path} | {role: artifact.path for role, artifact in parents.items()}
    return {
        name: held[key]
        for name, spec in recipe.stages.items()
        for setting, key in spec.bound().items()
        if setting == "uri" and key in held
    }


def run(settings: FollowSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Run the recipe up to its policy."""
    from posttrain.report.follow import followed_blocks

    base, recipe = parents.one("base"), recipe_to_run(settings, parents)
    if recipe is None:
        return _handed_on(base, out)
    stages = load_stages()
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        try:
            paths = run_stages(
                recipe,
                stages,
                inputs_of(settings),
                Path(scratch),
                only=result_of(recipe, stages),
                given=given(recipe, parents),
                on_stage=lambda name, done, total: progress.update(done, total, name),
                checkpoints=_checkpoints(settings),
                train=_trainer(settings),
            )
        except PosttrainError as error:
            # A fault that a retry may mend is left to the retry.
            if settings.on_failure == "fail" or error.exit_code != USER_ERROR:
                raise
            progress.say(f"{recipe.title} cannot be taken: {error}")
            return _handed_on(base, out, f"{recipe.title} cannot be taken: {error}")
        made = last_policy(paths, recipe, stages, files=False)  # by reference if nodes made it, and large
        shutil.copytree(made.path, out, dirs_exist_ok=True)
        ran = [record for record in made.record.family().values() if record.name in recipe.stages]
    return Work(made=made.record, blocks=followed_blocks(recipe, ran))


def _checkpoints(settings: FollowSettings) -> dict[str, Any]:
    """What the recipe's stages are told of checkpoints: a place of their own, as others follow recipes beside this one.

    Candidates of an ablation may begin with the same step, and a run has one writer.
    """
    shared = settings.model_dump(include=set(SHARED_SETTINGS))
    if settings.checkpoint_uri and settings.name:
        shared["checkpoint_uri"] = f"{settings.checkpoint_uri.rstrip('/')}/{segment(settings.name)}"
    return shared


def _trainer(settings: FollowSettings) -> Callable[..., Record]:
    """What runs the recipe's training stages."""
    if not settings.nodes:
        return execute
    from posttrain.kubeflow.nodes import execute_on_nodes

    return partial(execute_on_nodes, nodes=settings.nodes)


def _handed_on(base: Artifact, out: Path, why: str = "") -> Work:
    from posttrain.report.follow import handed_on_blocks

    shutil.copytree(base.path, out, dirs_exist_ok=True)
    return Work(made=base.record, blocks=handed_on_blocks(why))


STAGE = Stage(
    name="follow",
    output="policy",
    makes=Kind.POLICY,
    parents=PARENTS,
    settings=FollowSettings,
    run=run,
    check=check,
    size=lambda parents: 6 * size_of(parents.one("base")),
)
