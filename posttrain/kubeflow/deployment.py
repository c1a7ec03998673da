"""What is to be on a server, as a person writes it: pipelines with their defaults, and when they run by themselves.

pipelines:
  sft-rl-distil: {}
  nightly-improve: {recipe: improve, rounds: 2, settings: {evaluate: {samples: 32}}}
defaults: {schedule_gpu_count: "8", registry: s3://models/registry}
schedules:
  nightly: {pipeline: nightly-improve, cron: "0 0 2 * * *", parameters: {base: s3://…, problems: s3://…}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from posttrain.errors import ConfigError, nearest
from posttrain.settings import read_yaml, validated

_NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"


class PipelineEntry(BaseModel):
    """A pipeline of the deployment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str = Field(default="", description="a named recipe, a YAML file, improve, …; empty = the entry's name")
    retrain: bool = Field(default=False, description="repeat it whenever there is new data, from the champion")
    rounds: int = Field(default=3, ge=1, description="most rounds of `improve`")
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict, description="stage → setting → value")
    defaults: dict[str, Any] = Field(default_factory=dict, description="run-time parameter → default in the form")


class Schedule(BaseModel):
    """When a pipeline runs by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: str
    cron: str = Field(default="", description="six fields, seconds first, UTC: 0 0 2 * * *")
    every_seconds: int = Field(default=0, ge=0, description="instead of cron")
    parameters: dict[str, Any] = Field(default_factory=dict)
    enabled: bool = True
    max_concurrency: int = Field(default=1, ge=1, le=10, description="runs at once; 1: none overtakes another")
    catchup: bool = Field(default=False, description="make up for missed times")
    service_account: str = Field(default="", description="of its pods; empty = the server's default")
    experiment: str = Field(default="", description="where its runs are listed; empty = the deployment's")

    @model_validator(mode="after")
    def _one_trigger(self) -> Schedule:
        if bool(self.cron) == bool(self.every_seconds):
            raise ValueError("give cron or every_seconds, one of them")
        if self.cron and len(self.cron.split()) != 6:
            raise ValueError(f"cron {self.cron!r} has {len(self.cron.split())} fields instead of 6: seconds come first")
        return self


class Deployment(BaseModel):
    """Everything of one release; what an earlier deployment of the same release had besides is removed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    release: str = Field(default="posttrain", pattern=_NAME)
    experiment: str = Field(default="posttrain", min_length=1)
    scheduling: dict[str, Any] = Field(default_factory=dict, description="compile-time, of all pipelines")
    defaults: dict[str, Any] = Field(default_factory=dict, description="of all pipelines that have the parameter")
    pipelines: dict[str, PipelineEntry] = Field(default_factory=dict)
    schedules: dict[str, Schedule] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _knows(self) -> Deployment:
        for name, schedule in self.schedules.items():
            if schedule.pipeline not in self.pipelines:
                known = nearest(schedule.pipeline, self.pipelines)
                raise ValueError(f"schedules.{name}.pipeline: there is no pipeline {schedule.pipeline!r}{known}")
        return self


def read_deployment(path: Path) -> Deployment:
    """The deployment in a file.

    Raises:
        ConfigError: the file cannot be read, or says what makes no sense; the field is named.
    """
    return validated(Deployment, read_yaml(path), str(path))


@dataclass(frozen=True)
class Package:
    """A compiled pipeline; its version's name ends with its content's digest, so that the same content is sent once."""

    name: str
    description: str
    text: str

    @property
    def version(self) -> str:
        """As the server will list it, and the UI will call a run of it.

        The digest is of what the text says, not of the text: KFP writes the defaults of dicts into its comments in an
        order that is another one in every process.
        """
        said = json.dumps(self.documents, sort_keys=True)
        return f"{self.name}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"

    @cached_property
    def documents(self) -> list[dict[str, Any]]:
        """The pipeline, and then what concerns Kubernetes, if anything does."""
        return list(yaml.safe_load_all(self.text))

    @property
    def spec(self) -> dict[str, Any]:
        """The pipeline."""
        return self.documents[0]

    @property
    def whole(self) -> dict[str, Any]:
        """The pipeline, and beside it what concerns Kubernetes."""
        return {key: value for document in self.documents for key, value in document.items()}


def whole_of(version: Any) -> dict[str, Any]:
    """What `Package.whole` is, of a version on a server."""
    return {**spec_of(version), **(version.pipeline_spec or {}).get("platform_spec", {})}


def spec_of(version: Any) -> Mapping[str, Any]:
    """The pipeline of a version on a server, which wraps one that has settings for Kubernetes."""
    spec: Mapping[str, Any] = version.pipeline_spec or {}
    return spec.get("pipeline_spec", spec)


def parameters_of(spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A pipeline's run-time parameters by name, as KFP's spec describes them."""
    found: dict[str, dict[str, Any]] = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    return found


def checked(given: Mapping[str, Any], spec: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Arguments as the pipeline's types want them.

    Args:
        given: values; text is parsed where the parameter is a number, a dict or a list.

    Raises:
        ConfigError: a parameter is unknown, missing, or of another type.
    """
    declared = parameters_of(spec)
    for name in given:
        if name not in declared:
            raise ConfigError(f"{where}: no parameter {name!r}{nearest(name, declared)}")
    lacking = [name for name, one in declared.items() if name not in given and not _is_optional(one)]
    if lacking:
        raise ConfigError(f"{where}: needs {', '.join(lacking)}")
    return {name: _typed(value, declared[name]["parameterType"], f"{where}: {name}") for name, value in given.items()}


def _is_optional(declared: Mapping[str, Any]) -> bool:
    return bool(declared.get("isOptional")) or "defaultValue" in declared


_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "STRUCT": (dict,),
    "LIST": (list,),
}


def _typed(value: Any, kind: str, where: str) -> Any:
    wanted = _TYPES[kind]
    if isinstance(value, str) and str not in wanted:
        try:
            value = json.loads(value)
        except ValueError:
            raise ConfigError(f"{where}: {value!r} is no {wanted[0].__name__}") from None
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        hint = "; quote it" if wanted == (str,) else ""
        raise ConfigError(f"{where}: {value!r} is {type(value).__name__} instead of {wanted[0].__name__}{hint}")
    return value
