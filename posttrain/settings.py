"""Settings of stages: one pydantic model each, unknown names refused with the nearest known one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from posttrain.errors import ConfigError, nearest
from posttrain.taxonomy import Role


class Settings(BaseModel):
    """What every stage can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="", description="the stage's name in its recipe")
    role: Role | None = Field(default=None, description="the role it is meant to play, if not its method's usual one")
    seed: int = Field(default=0, ge=0, description="seeds every random choice of the stage")
    accept_provenance: Literal["", "off-policy", "on-policy", "mixed"] = Field(
        default="", description="a provenance you accept although the method promises another"
    )
    # Kubeflow's metadata store refuses a task that gets one artifact in two inputs, so it is given once.
    also: dict[str, str] = Field(
        default_factory=dict, description="parents that a parent in another role is, too, as {teacher_1: init}"
    )


Model = TypeVar("Model", bound=BaseModel)
AnySettings = TypeVar("AnySettings", bound=Settings)


def read_yaml(file: Path) -> Any:
    """What a person wrote in a file; {} where it is empty.

    Raises:
        ConfigError: the file cannot be read, or is not YAML in UTF-8.
    """
    import yaml

    try:
        return yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not text ({error}); write YAML in UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; check the path, and your rights to it") from None


def validated(model: type[Model], values: Any, where: str) -> Model:
    """A model of what a person wrote.

    Raises:
        ConfigError: one line with every wrong field, its value and the remedy.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        complaints = "; ".join(_complaint(detail, model) for detail in error.errors())
        raise ConfigError(f"{where}: {complaints}") from None


def parse_settings(model: type[AnySettings], values: Mapping[str, Any], where: str) -> AnySettings:
    """Validate a stage's settings. None means unset: the model's default applies.

    Raises:
        ConfigError: one line with every wrong setting, its value and the remedy.
    """
    return validated(model, {name: value for name, value in values.items() if value is not None}, where)


def changed(settings: Settings) -> set[str]:
    """The names of the settings that are not at their defaults.

    What was merely set says nothing: a compiled pipeline gives every stage all of its settings.
    """
    fields = type(settings).model_fields.items()
    return {name for name, field in fields if getattr(settings, name) != field.get_default(call_default_factory=True)}


def require_uri(uri: str, optional: bool) -> None:
    """Refuse an input that is left empty though a stage needs it.

    Raises:
        ConfigError: it is empty and not optional.
    """
    if not uri and not optional:
        raise ConfigError("uri is empty; give a path, file:// or s3://, or set optional if it may be left out")


def _complaint(detail: Any, model: type[BaseModel]) -> str:
    path, given = ".".join(map(str, detail["loc"])), detail["input"]
    # What holds others is said by the field that is wrong, not by all it holds.
    said = path if isinstance(given, dict) else f"{path}={given!r}"
    if detail["type"] == "extra_forbidden":
        return f"unknown setting {said}{nearest(str(detail['loc'][-1]), _fields(model, detail['loc'][:-1]))}"
    if detail["type"] == "missing" and path in model.model_fields:
        return f"{path} must be given: {model.model_fields[path].description}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{said}: {message}" if path else message


def _fields(model: Any, path: tuple[Any, ...]) -> Iterable[str]:
    """The names that are known at a path below a model: fields of fields, and of what dicts and lists hold."""
    for step in path:
        inner = getattr(model, "model_fields", {}).get(step)
        model = inner.annotation if inner else get_args(model)[-1]
    return getattr(model, "model_fields", ())
