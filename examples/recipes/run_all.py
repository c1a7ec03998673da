"""Runs every named recipe from end to end through the real stages, in the Countdown world and a few steps a stage.

    python examples/recipes/run_all.py [--out DIR] [RECIPE …]

Says whether a recipe works, not whether it helps. Exits with 1 if one of them fails. `make recipes` is this.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import yaml
from posttrain.components.catalogue import load_stages, names
from world import inputs

from posttrain.artifacts.record import read_record
from posttrain.cli.show import print_table, table
from posttrain.errors import ConfigError
from posttrain.recipes.execute import run_stages
from posttrain.recipes.load import check_recipe, load_recipe, named_recipes
from posttrain.recipes.schema import Recipe

TINY = Path(__file__).parent / "tiny.yaml"

Settings = dict[str, dict[str, Any]]


def tiny_settings(recipes: list[Recipe]) -> Settings:
    """The settings for all recipes.

    Raises:
        ConfigError: some are for no stage of any recipe.
    """
    settings: Settings = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    known = {*names(), *(stage for recipe in recipes for stage in recipe.stages)}
    if unknown := settings.keys() - known:
        raise ConfigError(f"{TINY}: no recipe has a stage {', '.join(sorted(unknown))}")
    return settings


def run(recipe: Recipe, settings: Settings, given: dict[str, str], directory: Path) -> str:
    """Run a recipe and return the gate's verdict."""
    stages = load_stages()
    tiny = recipe.overlaid(settings)
    check_recipe(tiny, recipe.name, stages)
    values = {**given, "registry": str(directory / "registry"), "model": recipe.name}
    paths = run_stages(tiny, stages, {name: values[name] for name in recipe.inputs}, directory)
    return str(read_record(paths["gate"]).facts["verdict"])


def main() -> int:
    """Run them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=list(named_recipes()), metavar="RECIPE")
    parser.add_argument("--out", type=Path, help="keep world and artifacts here; default: a temporary folder")
    asked = parser.parse_args()
    every = {name: load_recipe(name, load_stages()) for name in named_recipes()}
    settings = tiny_settings(list(every.values()))
    rows, failed = table("recipe", "stages", "seconds", "verdict"), False
    with tempfile.TemporaryDirectory() as scratch:
        out = asked.out or Path(scratch)
        given = inputs(out / "world")
        for name in asked.recipes:
            started = time.monotonic()
            try:
                outcome = run(every[name], settings, given, out / name)
            except Exception as error:
                traceback.print_exc()
                outcome, failed = f"FAILED: {error}", True
            rows.add_row(name, str(len(every[name].stages)), f"{time.monotonic() - started:.0f}", outcome)
    print_table(rows)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
