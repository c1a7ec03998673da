"""`posttrain recipes`, `lineage` and `report`, and the tables that `run` ends with."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from posttrain.artifacts.record import Record, read_record
from posttrain.errors import DataError
from posttrain.taxonomy import METHODS


def show_recipes() -> None:
    """The named recipes."""
    from posttrain.components.catalogue import load_stages
    from posttrain.recipes.load import load_recipe, named_recipes

    stages = load_stages()
    rows = table("recipe", "what it does", "from")
    for name in named_recipes():
        recipe = load_recipe(name, stages)
        rows.add_row(name, recipe.title, recipe.source)
    print_table(rows)


def show_recipe(name: str) -> None:
    """One recipe: what it needs and what it does."""
    from posttrain.components.catalogue import load_stages
    from posttrain.recipes.load import load_recipe
    from posttrain.settings import parse_settings

    stages = load_stages()
    recipe = load_recipe(name, stages)
    print(f"{recipe.name}: {recipe.title}\n{recipe.description}\nsource: {recipe.source}\n")
    inputs = table("input", "what", "default")
    for key, entry in recipe.inputs.items():
        inputs.add_row(f"--{key.replace('_', '-')}", entry.help, "required" if entry.default is None else entry.default)
    print_table(inputs)
    rows = table("stage", "method", "from", "provenance", "role", "why")
    for key, spec in recipe.stages.items():
        stage = stages[spec.use]
        method = METHODS[stage.method_of(parse_settings(stage.settings, spec.checkable(), key))]
        role = spec.role or method.role
        rows.add_row(key, method.title, ", ".join(spec.parent_names()), method.provenance or "", role or "", spec.why)
    print_table(rows)


def show_lineage(path: Path) -> None:
    """An artifact's ancestors, oldest first.

    Raises:
        DataError: it has no record.
    """
    record = read_record(path, verify=False)
    family = sorted(record.family().values(), key=lambda r: r.started)
    rows = table("artifact", "digest", "made by", "provenance", "own", "from", "settings and source")
    for ancestor in family:
        rows.add_row(*_lineage_row(ancestor, record))
    print_table(rows)
    versions = ", ".join(f"{name} {version}" for name, version in record.environment.versions.items())
    print(f"{record.name} {record.digest} was made with {versions}")


def _lineage_row(record: Record, youngest: Record) -> list[str]:
    trace = record.trace
    family = youngest.family()
    parents = ", ".join(f"{ref.role}={family[ref.id].name}" for ref in record.parents)
    told = [str(record.facts[key]) for key in ("uri", "source", "judge", "verdict") if key in record.facts]
    told += [f"seed {record.parameters.get('seed')}"] if trace else []
    told += [f"learning rate {record.parameters['learning_rate']}"] if record.parameters.get("learning_rate") else []
    return [
        record.name,
        record.digest[:12],
        METHODS[record.method].title,
        trace.provenance if trace else "",
        f"{trace.self_generated_fraction:.0%}" if trace else "",
        parents,
        ", ".join(told),
    ]


def write_report(run: Path, output: Path) -> None:
    """Write a run's page and say where.

    Raises:
        DataError: there is no run.
    """
    from posttrain.artifacts.digests import RECORD_FILE
    from posttrain.cli.run import ARGUMENTS_FILE
    from posttrain.report.page import Page, render
    from posttrain.report.run import Run, run_blocks

    if not (run / ARGUMENTS_FILE).is_file() and not any(run.rglob(RECORD_FILE)):
        raise DataError(f"{run}: no run is there; give a run's directory, as printed by posttrain run")
    page = Page(f"Run {run.resolve().name}", run_blocks(Run.in_directory(run)))
    output.write_text(render(page), encoding="utf-8")
    print(f"report: {output}")


def print_run(run: Path) -> None:
    """The rounds if there were any, the table before and after, the stages, and the verdict."""
    from posttrain.report.rounds import ROUND_COLUMNS, round_rows
    from posttrain.report.run import STAGE_COLUMNS, Run, evaluation_columns, evaluation_rows, stage_rows

    found = Run.in_directory(run)
    if found.recommendations:
        rounds = table(*ROUND_COLUMNS)
        for turn in round_rows(found.recommendations, found.result):
            rounds.add_row(*map(str, turn))
        print_table(rounds)
    rows = table(*evaluation_columns(found))
    for row in evaluation_rows(found):
        rows.add_row(*map(str, row))
    print_table(rows)
    stages = table(*STAGE_COLUMNS)
    for cells in stage_rows(found):
        stages.add_row(*("" if cell is None else str(cell) for cell in cells))
    print_table(stages)
    if found.decision:
        print(f"gate: {found.decision.facts['verdict']}: {found.decision.facts['reason']}")
    for record in found.registrations:
        print(f"registered: {record.facts['uri']}")


def table(*columns: str) -> Table:
    """A plain table for the terminal."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_table(shown: Table) -> None:
    """Print a table and an empty line."""
    # Piped into a file, a table is as wide as it needs to be.
    console = Console()
    if not console.is_terminal:
        console.width = 240
    console.print(shown)
    console.print()
