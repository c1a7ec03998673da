"""Settings of stages: one pydantic model each, unknown names refused with the nearest known one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

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


AnySettings = TypeVar("AnySettings", bound=Settings)


def parse_settings(model: type[AnySettings], values: Mapping[str, Any], where: str) -> AnySettings:
    """Validate a stage's settings. None means unset: the model's default applies.

    Raises:
        ConfigError: one line with every wrong setting, its value and the remedy.
    """
    given = {name: value for name, value in values.items() if value is not None}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        complaints = "; ".join(_complaint(detail, model) for detail in error.errors())
        raise ConfigError(f"{where}: {complaints}") from None


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
    path = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        return f"unknown setting {path}={detail['input']!r}{nearest(path, model.model_fields)}"
    if detail["type"] == "missing" and path in model.model_fields:
        return f"{path} must be given: {model.model_fields[path].description}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{path}={detail['input']!r}: {message}" if path else message
