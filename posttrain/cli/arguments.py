"""A recipe's inputs and changes from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from posttrain.errors import ConfigError, nearest
from posttrain.recipes.schema import Recipe


def parse_inputs(recipe: Recipe, arguments: list[str], defaults: dict[str, str]) -> dict[str, str]:
    """`--held-out FILE` or `--held_out=FILE` for each of the recipe's inputs; local paths made absolute.

    Args:
        defaults: values for inputs that are not given.

    Raises:
        ConfigError: an option is unknown, lacks its value, or an input is missing.
    """
    given: dict[str, str] = {}
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or name not in recipe.inputs:
            raise ConfigError(f"{recipe.name} takes no {word!r}{nearest(name, recipe.inputs)}")
        if not equals and not queue:
            raise ConfigError(f"{word}: a value is missing; {recipe.inputs[name].help}")
        given[name] = value if equals else queue.pop(0)
    values = {**{name: i.default for name, i in recipe.inputs.items() if i.default is not None}, **defaults, **given}
    missing = [f"--{name.replace('_', '-')} ({i.help})" for name, i in recipe.inputs.items() if name not in values]
    if missing:
        raise ConfigError(f"{recipe.name} also needs {'; '.join(missing)}")
    return {name: _absolute(value) for name, value in values.items()}


def _absolute(value: str) -> str:
    """Stages run elsewhere, so a path that exists here is passed on absolute."""
    return str(Path(value).absolute()) if "://" not in value and Path(value).exists() else value


def changed(recipe: Recipe, changes: list[str]) -> Recipe:
    """The recipe with `stage.setting=value` applied; values are read as YAML.

    Raises:
        ConfigError: a change names no stage, or has no value.
    """
    stages = dict(recipe.stages)
    for change in changes:
        path, equals, text = change.partition("=")
        stage, _, setting = path.partition(".")
        if not equals or not setting:
            raise ConfigError(f"--set {change!r}: write STAGE.SETTING=VALUE, as sft_policy.epochs=2")
        if stage not in stages:
            raise ConfigError(f"--set {change!r}: {recipe.name} has no stage {stage!r}{nearest(stage, stages)}")
        settings: dict[str, Any] = {**stages[stage].settings, **_nested(setting.split("."), yaml.safe_load(text))}
        stages[stage] = stages[stage].model_copy(update={"settings": settings})
    return recipe.model_copy(update={"stages": stages})


def _nested(path: list[str], value: Any) -> dict[str, Any]:
    """`trainer_args.epsilon=0.3` sets a key inside a dict setting."""
    return {path[0]: value if len(path) == 1 else _nested(path[1:], value)}
