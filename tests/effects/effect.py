"""What an effect is: a stage moves the quantity it is for, in the direction that the catalogue says.

A module beside this one holds the effects of one family. Each is a function of a directory to work in and a seed, and
is declared with the margin that it must reach at seed 0, in `make test`. `benchmarks/effects.py` repeats all of them
over several seeds: margins are set from there, well inside what every seed showed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from posttrain.artifacts.record import Record


@dataclass(frozen=True)
class Measured:
    """`value` against `baseline`, of one quantity; `record` is what the stage in question made."""

    baseline: float
    value: float
    record: Record

    @property
    def change(self) -> float:
        return self.value - self.baseline


@dataclass(frozen=True)
class Effect:
    """One declared effect. A negative margin means that the quantity must fall by as much."""

    name: str
    method: str
    quantity: str
    against: str
    margin: float
    measure: Callable[[Path, int], Measured]

    def holds(self, measured: Measured) -> bool:
        return measured.change >= self.margin if self.margin > 0 else measured.change <= self.margin


EFFECTS: dict[str, Effect] = {}


def effect(
    method: str, quantity: str, margin: float, against: str = "before"
) -> Callable[[Callable[[Path, int], Measured]], Callable[[Path, int], Measured]]:
    """Declare the function that measures an effect.

    Args:
        method: its name in the catalogue (`posttrain.taxonomy.METHODS`).
        quantity: what is measured, as "pass@1 of unseen sums".
        margin: how far the value must be from the baseline; its sign is the direction.
        against: what the baseline is: the policy before, or another method at the same cost.
    """

    def declare(measure: Callable[[Path, int], Measured]) -> Callable[[Path, int], Measured]:
        EFFECTS[measure.__name__] = Effect(measure.__name__, method, quantity, against, margin, measure)
        return measure

    return declare
