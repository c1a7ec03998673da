"""Which stages there are. A stage is found by its room's name; nothing is registered twice."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

from posttrain.errors import RecipeError, nearest
from posttrain.stage import Stage


def names() -> list[str]:
    """Every room, sorted."""
    import posttrain.components

    return sorted(module.name for module in pkgutil.iter_modules(posttrain.components.__path__) if module.ispkg)


def load_stage(name: str) -> Stage[Any]:
    """The declaration of a stage.

    Raises:
        RecipeError: there is no such room.
    """
    if name not in names():
        raise RecipeError(f"no stage is called {name!r}{nearest(name, names())}")
    stage: Stage[Any] = import_module(f"posttrain.components.{name}.stage").STAGE
    return stage


def load_stages() -> dict[str, Stage[Any]]:
    """Every stage's declaration by name."""
    return {name: load_stage(name) for name in names()}
