"""`posttrain …`: the command line. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli import checkpoints, kubeflow, registry

app = typer.Typer(
    help="Post-train language models as measured, recorded, gated stages on Kubeflow Pipelines.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(checkpoints.app, name="checkpoints")
for command in (kubeflow.deploy, kubeflow.submit, kubeflow.schedule, kubeflow.runs, registry.models, registry.rollback):
    app.command()(command)

# `--base DIR`, `--problems FILE` …: the inputs differ from recipe to recipe, so they are read from what is left over.
_INPUTS_AS_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A named recipe or a YAML file of your own.")]
SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", metavar="FILE", help="YAML with other settings, stage: {setting: value}."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="STAGE.SETTING=VALUE", help="Change a stage's setting; may be repeated."),
]
Checkpoints = Annotated[
    str, typer.Option(metavar="URI", help="Keep training stages there while they train (path or s3://), to go on from.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Take over what earlier runs in OUT finished, and their checkpoints' URI.")
]


@app.command(context_settings=_INPUTS_AS_OPTIONS)
def run(
    context: typer.Context,
    recipe: RecipeName,
    out: Annotated[str, typer.Option(help="Where runs and the registry go: a directory, or s3:// for the registry.")],
    checkpoints: Checkpoints = "",
    resume: Resume = False,
    settings: SettingsFile = None,
    changes: Sets = None,
) -> None:
    """Run a recipe here, through Kubeflow Pipelines' local runner. Inputs are options: --base DIR --problems FILE …"""
    from posttrain.cli.run import run_recipe
    from posttrain.components.catalogue import load_stages
    from posttrain.recipes.load import load_recipe

    run_recipe(load_recipe(recipe, load_stages()), context.args, out, settings, changes or [], checkpoints, resume)


@app.command("compile")
def compile_(
    recipe: RecipeName,
    output: Annotated[Path, typer.Option("--output", "-o", help="The pipeline's YAML.")] = Path("pipeline.yaml"),
    rounds: Annotated[int, typer.Option(help="Most rounds of `improve`.")] = 3,
    scheduling: Annotated[Path | None, typer.Option(help="Compile-time scheduling (YAML).")] = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Repeat it whenever there is new data.")] = False,
    settings: SettingsFile = None,
    changes: Sets = None,
) -> None:
    """Compile a recipe to a Kubeflow pipeline; also `diagnose`, `improve`, `ablation` and `retrain`."""
    from posttrain.cli.run import compile_to

    compile_to(recipe, output, rounds, scheduling, settings, changes or [], retrain)


@app.command()
def diagnose(
    model: Annotated[str, typer.Option(help="The policy: a Hugging Face model directory (path or s3://).")],
    problems: Annotated[str, typer.Option(help="Problems to measure on: rows with prompt, verifier, reference.")],
    out: Annotated[Path, typer.Option(help="A new directory for evaluations, diagnosis and pages.")],
    anchors: Annotated[str, typer.Option(help="Problems on which it must not have got worse.")] = "",
    teacher: Annotated[str, typer.Option(help="A stronger policy with the same tokenizer.")] = "",
    demos: Annotated[str, typer.Option(help="Demonstrations at hand.")] = "",
    preferences: Annotated[str, typer.Option(help="Preferences at hand.")] = "",
    original: Annotated[str, typer.Option(help="An earlier policy that could be brought back.")] = "",
    reward_model: Annotated[str, typer.Option(help="A reward model that a run made.")] = "",
    before: Annotated[str, typer.Option(help="The evaluation before the last stage (an artifact).")] = "",
    anchors_before: Annotated[str, typer.Option(help="An earlier evaluation on the anchors (an artifact).")] = "",
    scaffold: Annotated[str, typer.Option(help="An evaluation with search or hints (an artifact).")] = "",
    audit: Annotated[str, typer.Option(help="Completions with a verifier and a trusted label.")] = "",
    settings: SettingsFile = None,
    changes: Sets = None,
) -> None:
    """Measure a policy: what holds it back, by slice, and what to do next."""
    given = {key: value for key, value in locals().items() if isinstance(value, str)}
    from posttrain.cli.diagnose import diagnose

    diagnose({**given, "base": given.pop("model")}, out, settings, changes or [])


@app.command()
def recommend(
    diagnosis: Annotated[Path, typer.Argument(help="A diagnosis artifact.")],
    out: Annotated[Path, typer.Option(help="A new directory for the recommendation and its recipe.")],
    threshold: Annotated[list[str] | None, typer.Option(metavar="NAME=NUMBER", help="Another bound.")] = None,
    previous: Annotated[Path | None, typer.Option(help="The recommendation that was followed last.")] = None,
) -> None:
    """Turn a diagnosis into the next stages: the rule, its evidence, and a recipe that `run` and `compile` take."""
    from posttrain.cli.diagnose import recommend

    recommend(diagnosis, out, threshold or [], previous)


@app.command(context_settings=_INPUTS_AS_OPTIONS)
def improve(
    context: typer.Context,
    out: Annotated[str, typer.Option(help="Where runs and the registry go: a directory, or s3:// for the registry.")],
    rounds: Annotated[int, typer.Option(help="Most rounds; it stops before where nothing is left to do.")] = 3,
    checkpoints: Checkpoints = "",
    resume: Resume = False,
    settings: SettingsFile = None,
    changes: Sets = None,
) -> None:
    """Measure, diagnose, take the recommended step, measure again; gated. Inputs: --base DIR --problems FILE …"""
    from posttrain.cli.run import run_recipe
    from posttrain.recipes.loops import improve_recipe

    run_recipe(improve_recipe(rounds), context.args, out, settings, changes or [], checkpoints, resume)


@app.command()
def recipes(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="Show this one.")] = None,
) -> None:
    """List the named recipes, or show one: its inputs, stages, provenance and roles."""
    from posttrain.cli.show import show_recipe, show_recipes

    show_recipe(recipe) if recipe else show_recipes()


@app.command()
def lineage(model: Annotated[Path, typer.Argument(help="A policy or any other artifact.")]) -> None:
    """Which data, sampler, teacher, judge, parent and settings made this model."""
    from posttrain.cli.show import show_lineage

    show_lineage(model)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run's directory.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: report.html in it.")] = None,
) -> None:
    """Write the report of a run, finished or not."""
    from posttrain.cli.show import write_report

    write_report(run, output or run / "report.html")


@app.command()
def world(
    name: Annotated[str, typer.Argument(help="chains or countdown")],
    out: Annotated[str, typer.Option(metavar="URI", help="A new directory, or s3://bucket/prefix for pipelines.")],
    seed: Annotated[int, typer.Option(help="Seeds data and model.")] = 0,
) -> None:
    """Build a small world to try things in: a base model with known weaknesses, its problems and demonstrations."""
    from posttrain.cli.world import build_world

    build_world(name, out, seed)


@app.command(hidden=True)
def worker(
    stage: Annotated[str, typer.Option(help="The stage, as sft.")],
    out: Annotated[str, typer.Option(help="Where its artifact goes (path or s3://).")],
    parent: Annotated[list[str] | None, typer.Option(metavar="ROLE=URI", help="A parent; may be repeated.")] = None,
    settings: Annotated[str, typer.Option(help="The stage's settings, as JSON.")] = "{}",
    page: Annotated[str, typer.Option(help="Where its page goes (path or s3://); empty = nowhere.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Do nothing if its artifact is there already.")] = False,
) -> None:
    """Run one stage from URIs to a URI: what a container of a Kubeflow TrainJob does, once on each node."""
    from posttrain.cli.worker import end_when_told, run_worker

    end_when_told()
    run_worker(stage, parent or [], settings, out, page, once)


@app.command(hidden=True)
def rank(folder: Annotated[Path, typer.Argument(help="The job's folder.")]) -> None:
    """One process of a group that a stage started."""
    from posttrain.cli.worker import run_rank

    run_rank(folder)


def main() -> None:
    """Entry point; errors on purpose end in one line and their exit code."""
    from posttrain.errors import PosttrainError

    try:
        app()
    except PosttrainError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # an output that cannot be written, as a folder that does not exist
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}; check the path, and your rights to it", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
