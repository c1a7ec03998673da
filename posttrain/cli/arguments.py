"""A recipe's inputs and changes from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from posttrain.errors import ConfigError, nearest
from posttrain.recipes.load import overlaid
from posttrain.recipes.schema import Recipe
from posttrain.settings import read_yaml
from posttrain.storage.uris import parse


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
    return {name: absolute(value) if Path(value).exists() else value for name, value in values.items()}


def refuse_missing(recipe: Recipe, inputs: dict[str, str]) -> None:
    """Inputs that a stage reads by `uri` must be there before anything starts, and the registry be a place.

    Raises:
        ConfigError: a local path is not there, or a URI means nothing.
    """
    bound = [spec.bound() for spec in recipe.stages.values()]
    read, written = ({each[setting] for each in bound if setting in each} for setting in ("uri", "registry"))
    for name in recipe.inputs:
        if name in read | written:
            parse(inputs[name])
        optional = recipe.inputs[name].default == "" and not inputs[name]
        if name in read and not optional and "://" not in inputs[name] and not Path(inputs[name]).exists():
            raise ConfigError(f"--{name.replace('_', '-')} {inputs[name]}: no such file or directory")


def absolute(value: str) -> str:
    """Stages run elsewhere, so a path is passed on absolute; a URI and nothing stay as they are.

    Raises:
        ConfigError: it looks like a URI, and is none that we know.
    """
    parse(value)
    return str(Path(value).absolute()) if value and "://" not in value else value


def changed(recipe: Recipe, file: Path | None, changes: list[str]) -> Recipe:
    """The recipe with other settings.

    Args:
        file: YAML, `stage: {setting: value}`. A room's name, as `evaluate`, stands for every stage that uses it; a
            stage's own name wins.
        changes: `stage.setting=value`, applied last; values are read as YAML.

    Raises:
        ConfigError: a change names no stage, or has no value.
    """
    asked = _read(file) if file else {}
    for change in changes:
        path, equals, text = change.partition("=")
        stage, _, setting = path.partition(".")
        if not equals or not setting:
            raise ConfigError(f"--set {change!r}: write STAGE.SETTING=VALUE, as sft_policy.epochs=2")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {change!r}: the value is not YAML ({' '.join(str(error).split())})") from None
        _nest(asked.setdefault(stage, {}), setting.split("."), value)
    return overlaid(recipe, asked)


def _read(file: Path) -> dict[str, dict[str, Any]]:
    asked = read_yaml(file)
    if not isinstance(asked, dict) or not all(isinstance(settings, dict) for settings in asked.values()):
        raise ConfigError(f"{file}: write stage: {{setting: value}}")
    return asked


def _nest(settings: dict[str, Any], path: list[str], value: Any) -> None:
    """`trainer_args.epsilon=0.3` sets a key inside a dict setting."""
    for key in path[:-1]:
        settings = settings.setdefault(key, {})
    settings[path[-1]] = value
