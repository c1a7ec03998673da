"""TRL's classes by name: the stable ones, and the experimental ones that any release may take away."""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from typing import Any

from posttrain.errors import ConfigError

_PINNED = "1.16"  # as in pyproject.toml: the release whose experimental classes are known


def trl_class(name: str) -> Any:
    """A class of TRL: `SFTConfig`, or `experimental.cpo.CPOConfig`.

    Raises:
        ConfigError: the installed TRL no longer has it.
    """
    module, _, attribute = f"trl.{name}".rpartition(".")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is experimental is said where the method is described
            return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        version = importlib.metadata.version("trl")
        raise ConfigError(
            f"TRL {version} has no {module}.{attribute}, TRL {_PINNED} has; install trl=={_PINNED}.*, or choose a "
            "method of a stable trainer, such as dpo"
        ) from None
