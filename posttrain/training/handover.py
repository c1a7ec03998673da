"""A stage's `Work` as text, from the process that did it to the one that records it."""

from __future__ import annotations

import dataclasses
import importlib
import json
from typing import Any

from pydantic import TypeAdapter

from posttrain.stage import Work

_WORK = TypeAdapter(Work)
_CLASS = "class"  # of a page's block: its class in posttrain.report, beside its fields


def dump(work: Work) -> str:
    """The work as JSON; NaN, as a metric of nothing, stays."""
    plain = _WORK.dump_python(dataclasses.replace(work, blocks=[]), mode="json")
    return json.dumps(plain | {"blocks": _plain(work.blocks)})


def load(text: str) -> Work:
    """What `dump` wrote."""
    values = json.loads(text)
    return dataclasses.replace(_WORK.validate_python(values | {"blocks": []}), blocks=_restored(values["blocks"]))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) or hasattr(value, "_asdict"):
        names = getattr(value, "_fields", None) or [field.name for field in dataclasses.fields(value)]
        fields = {name: _plain(getattr(value, name)) for name in names}
        return fields | {_CLASS: f"{type(value).__module__}.{type(value).__name__}"}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(each) for each in value]
    if not isinstance(value, dict):
        return value
    module, _, name = value.pop(_CLASS).rpartition(".")
    fields = {key: _restored(each) for key, each in value.items()}
    return getattr(importlib.import_module(module), name)(**fields)
