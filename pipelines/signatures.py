"""A pipeline's signature, made when it is compiled: KFP reads a pipeline's parameters from its function's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from posttrain.errors import ConfigError, nearest

NOTHING: Mapping[str, Any] = MappingProxyType({})


def signed(
    pipeline: Callable[..., None], parameters: Sequence[inspect.Parameter], defaults: Mapping[str, Any], doc: str
) -> inspect.Signature:
    """Give a pipeline's function its signature and its help; required parameters come first.

    Args:
        defaults: of parameters, instead of their own; of a dict, the keys that differ.

    Raises:
        ConfigError: a default is of no parameter, or of another type.
    """
    named = {parameter.name: parameter for parameter in parameters}
    for name, value in defaults.items():
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
