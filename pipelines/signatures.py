"""A pipeline's signature, made when it is compiled: KFP reads a pipeline's parameters from its function's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.errors import ConfigError, nearest


@dataclass(frozen=True)
class Defaults:
    """Of run-time parameters, instead of their own: those of a pipeline, and those of every one that has them."""

    own: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, Any] = field(default_factory=dict)


NOTHING = Defaults()


def signed(
    pipeline: Callable[..., None], parameters: Sequence[inspect.Parameter], defaults: Defaults, doc: str
) -> inspect.Signature:
    """Give a pipeline's function its signature and its help; required parameters come first.

    Args:
        defaults: of a dict, the keys that differ.

    Raises:
        ConfigError: the pipeline's own default is of no parameter, or a default is of another type.
    """
    named = {parameter.name: parameter for parameter in parameters}
    shared = {name: value for name, value in defaults.shared.items() if name in named}
    for name, value in {**shared, **defaults.own}.items():
        if name not in named:
            raise ConfigError(f"defaults: no parameter {name!r}{nearest(name, named)}")
        named[name] = named[name].replace(default=_default(named[name], value))
    signature = inspect.Signature(sorted(named.values(), key=lambda one: one.default is not one.empty))
    pipeline.__signature__ = signature  # type: ignore[attr-defined]
    pipeline.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    pipeline.__doc__ = doc
    return signature


def _default(parameter: inspect.Parameter, value: Any) -> Any:
    if not isinstance(value, parameter.annotation):
        wanted, got = parameter.annotation.__name__, type(value).__name__
        hint = "; quote it" if parameter.annotation is str else ""
        raise ConfigError(f"defaults: {parameter.name}={value!r} is {got} instead of {wanted}{hint}")
    return {**parameter.default, **value} if isinstance(value, dict) and parameter.default else value
