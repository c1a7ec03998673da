"""Which checkpoints stay: the last ones, the best ones, and every so many steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from posttrain.errors import ConfigError


@dataclass(frozen=True)
class Retention:
    """What to keep; a checkpoint stays if any of these keeps it.

    `last`: so many of the newest, at least one; None = all of them. `best`: so many of the best by `metric`, of which
    more is better unless `lower`. `every`: those whose step is a multiple of it. `grace`: seconds for which a blob
    that no checkpoint refers to may still become part of one.
    """

    last: int | None = 3
    best: int = 0
    metric: str = ""
    lower: bool = False
    every: int = 0
    grace: float = 3600.0

    def __post_init__(self) -> None:
        if self.last is not None and self.last < 1:
            raise ConfigError(f"last={self.last}: the newest checkpoint always stays; give 1 or more")
        for name in ("best", "every", "grace"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)}: give 0 or more")
        if self.best and not self.metric:
            raise ConfigError(f"best={self.best}: by which metric? name one, as eval_loss")


USUAL = Retention()


def kept(metrics: Mapping[int, Mapping[str, float]], keep: Retention) -> set[int]:
    """The steps that stay.

    Args:
        metrics: step → the metrics of its checkpoint. One without `keep.metric`, or with NaN, is not among the best;
            of equals the earlier one is.
    """
    steps = sorted(metrics)
    stay = set(steps if keep.last is None else steps[-keep.last :])
    if keep.every:
        stay |= {step for step in steps if step % keep.every == 0}
    if keep.best:
        sign = 1 if keep.lower else -1
        values = {step: metrics[step].get(keep.metric, math.nan) for step in steps}
        ranked = sorted((sign * value, step) for step, value in values.items() if not math.isnan(value))
        stay |= {step for _, step in ranked[: keep.best]}
    return stay
