"""Every pipeline by its name, compiled: a recipe, with changes, or one of those that choose for themselves."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from posttrain.components.catalogue import load_stages
from posttrain.pipelines.ablation import TITLE as ABLATION
from posttrain.pipelines.ablation import compile_ablation
from posttrain.pipelines.compiler import compile_recipe
from posttrain.pipelines.retrain import build_retrain, title
from posttrain.pipelines.scheduling import Scheduling
from posttrain.pipelines.signatures import NOTHING, Defaults

from posttrain.errors import ConfigError, nearest
from posttrain.kubeflow.deployment import Deployment, Package, parameters_of
from posttrain.recipes.load import check_recipe, load_recipe, overlaid
from posttrain.recipes.loops import diagnose_recipe, improve_recipe
from posttrain.recipes.schema import Recipe
from posttrain.settings import validated

RETRAIN = "retrain"
Change = Callable[[Recipe], Recipe]


def compile_named(
    name: str,
    path: Path,
    scheduling: Scheduling,
    rounds: int = 3,
    change: Change = lambda recipe: recipe,
    defaults: Defaults = NOTHING,
    called: str = "",
    retrain: bool = False,
) -> str:
    """Write a pipeline as YAML; returns what it is, in a line.

    Args:
        name: a named recipe, a recipe's file, `diagnose`, `improve`, `ablation`, or `retrain`: one round of `improve`,
            repeated.
        rounds: most rounds of `improve`.
        change: of the recipe, before it is checked.
        defaults: of run-time parameters.
        called: the pipeline's name, if not the recipe's.
        retrain: the pipeline that repeats it whenever there is new data.

    Raises:
        ConfigError: no such recipe, or a change or default does not fit it.
    """
    if name == "ablation" and retrain:
        raise ConfigError("ablation compares recipes and registers none, so there is nothing to repeat; take a recipe")
    if name == "ablation":
        compile_ablation(path, scheduling, defaults, called)
        return ABLATION
    if name == RETRAIN:
        return compile_named("improve", path, scheduling, 1, change, defaults, called or RETRAIN, retrain=True)
    loops = {"diagnose": diagnose_recipe, "improve": lambda: improve_recipe(rounds)}
    recipe = change(loops[name]() if name in loops else load_recipe(name, load_stages()))
    check_recipe(recipe, recipe.name, load_stages())
    if retrain:
        compile_recipe(recipe, path, scheduling, defaults, called or f"{RETRAIN}-{recipe.name}", build_retrain)
        return f"{title(recipe)}, {len(recipe.stages)} stages and two around them"
    compile_recipe(recipe, path, scheduling, defaults, called)
    return f"{recipe.title}, {len(recipe.stages)} stages"


def packages(deployment: Deployment, where: str) -> list[Package]:
    """The deployment's pipelines, compiled.

    Args:
        where: what the deployment was read from, for messages.

    Raises:
        ConfigError: an entry makes no sense; it is named.
    """
    scheduling = validated(Scheduling, deployment.scheduling, f"{where}: scheduling")
    made = [_package(name, deployment, scheduling, where) for name in deployment.pipelines]
    known = {name for package in made for name in parameters_of(package.spec)}
    for name in deployment.defaults:
        if name not in known:
            raise ConfigError(f"{where}: defaults: no pipeline has a parameter {name!r}{nearest(name, known)}")
    return made


def _package(name: str, deployment: Deployment, scheduling: Scheduling, where: str) -> Package:
    entry = deployment.pipelines[name]
    defaults = Defaults(own=entry.defaults, shared=deployment.defaults)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "pipeline.yaml"
        try:
            told = compile_named(
                entry.recipe or name,
                file,
                scheduling,
                entry.rounds,
                lambda r: overlaid(r, entry.settings),
                defaults,
                name,
                entry.retrain,
            )
        except ConfigError as error:
            raise ConfigError(f"{where}: pipelines.{name}: {error}") from None
        return Package(name, told, file.read_text(encoding="utf-8"))
