"""`from posttrain.components.sft import sft` without making every import of a stage's work import kfp."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def component_of(package: str) -> Callable[[str], Any]:
    """A package's `__getattr__`: its KFP component under the room's own name, imported on first use."""
    room = package.rpartition(".")[2]

    def get(name: str) -> Any:
        if name != room:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.component"), room)

    return get
