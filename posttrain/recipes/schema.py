"""What a recipe file may say.

A recipe names what the user brings (`inputs`) and the stages, each with its parents by role. A parent is an earlier
stage's name. Inputs are settings of the stages that bring things in (`uri: ${base}`), so a compiled pipeline has one
parameter for each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from posttrain.taxonomy import Provenance, Role

_NAME = re.compile(r"[a-z][a-z0-9_]*")
PLACEHOLDER = re.compile(r"\$\{([a-z][a-z0-9_]*)\}")


def as_list(parents: str | list[str]) -> list[str]:
    """A role's parents as a list: a recipe may give a single one by its name alone."""
    return [parents] if isinstance(parents, str) else parents


class Input(BaseModel):
    """Something the user brings, as a URI or a plain value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    help: str = Field(description="one line for the command line and the pipeline's parameter")
    default: str | None = Field(default=None, description="None = must be given")


class StageSpec(BaseModel):
    """One stage of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    use: str = Field(description="the stage's room")
    parents: dict[str, str | list[str]] = Field(default_factory=dict, description="role → earlier stage(s)")
    settings: dict[str, Any] = Field(default_factory=dict, alias="with", description="the stage's settings")
    role: Role | None = Field(default=None, description="the role it is meant to play")
    provenance: Provenance | None = Field(
        default=None, description="what the recipe's source says; checked against the method"
    )
    when: dict[str, str] = Field(default_factory=dict, description="gate stage → verdict needed for this stage to run")
    why: str = Field(default="", description="one line for readers of the recipe")

    def bound(self) -> dict[str, str]:
        """Settings that are one of the recipe's inputs: setting → input."""
        found = {key: PLACEHOLDER.fullmatch(value) for key, value in self.settings.items() if isinstance(value, str)}
        return {key: match[1] for key, match in found.items() if match}

    def checkable(self) -> dict[str, Any]:
        """The settings with inputs replaced by their names, so that the rest can be validated."""
        return self.settings | self.bound()

    def parent_names(self) -> list[str]:
        """Every parent, in order."""
        return [name for value in self.parents.values() for name in as_list(value)]


class Recipe(BaseModel):
    """A recipe: inputs and stages in the order in which a reader would follow them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    description: str = ""
    source: str = Field(default="", description="where the recipe comes from")
    extends: Literal["", "gated"] = Field(default="", description="the frame around its stages: `parts/gated.yaml`")
    inputs: dict[str, Input] = Field(default_factory=dict)
    stages: dict[str, StageSpec]
    result: str = Field(default="", description="the stage whose policy the recipe is for; empty = its last policy")

    def overlaid(self, settings: Mapping[str, Mapping[str, Any]]) -> Recipe:
        """With other settings: stage or room → settings; a stage's own name wins over its room's."""
        stages = {
            name: spec.model_copy(
                update={"settings": {**spec.settings, **settings.get(spec.use, {}), **settings.get(name, {})}}
            )
            for name, spec in self.stages.items()
        }
        return self.model_copy(update={"stages": stages})

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            raise ValueError("use lower-case letters, digits and '-'")
        return name

    @field_validator("inputs", "stages")
    @classmethod
    def _names(cls, named: dict[str, Any]) -> dict[str, Any]:
        for name in named:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r}: use lower-case letters, digits and '_', starting with a letter")
        return named
