"""Numbers and names as people read them: few digits, a true minus sign, ticks at round values, words."""

from __future__ import annotations

import math
from numbers import Integral
from typing import TypeGuard

MISSING = "–"
MINUS = "\N{MINUS SIGN}"
_LARGEST = 1e300  # beyond it a range's width overflows
_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def plain(name: str) -> str:
    """A stage's or a metric's name as words."""
    return name.replace("_", " ")


def finite(value: float | None) -> TypeGuard[float]:
    """Whether there is a number to draw."""
    return value is not None and abs(value) <= _LARGEST  # False for NaN, too


def number(value: float | None) -> str:
    """Three digits or so; integers in full; a dash for None, `n/a` for NaN."""
    if value is None:
        return MISSING
    if isinstance(value, Integral):  # numpy's integers too
        value = int(value)
        return f"{value:,}".replace("-", MINUS) if abs(value) < 10**15 else _scientific(value)
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return f"{MINUS if value < 0 else ''}∞"
    if not _written_out(value):
        return _scientific(value)
    text = f"{value:,.{_decimals(value)}f}".replace("-", MINUS)
    return text if abs(value) >= 0.01 or value == 0 else text.rstrip("0")


def whole(value: float) -> float:
    """The value as an integer if it is one, so that a count reads `64` and not `64.00`."""
    return int(value) if abs(value) < 1e15 and value == int(value) else value


def interval(estimate: float | None, low: float | None, high: float | None) -> str:
    """`0.631 [0.580, 0.690]`, as precise as the interval's width is; the estimate alone where that is unknown."""
    if not (finite(low) and finite(high)):
        return number(estimate)
    known = [value for value in (estimate, low, high) if finite(value)]
    if not all(map(_written_out, known)):
        return f"{number(estimate)} [{number(low)}, {number(high)}]"
    width = abs(high - low)
    needed = -math.floor(math.log10(width)) if width else 0
    decimals = min(8, max(needed, _decimals(max(known, key=abs))))
    first, *ends = (number(v) if not finite(v) else f"{v:,.{decimals}f}" for v in (estimate, low, high))
    return f"{first} [{', '.join(ends)}]".replace("-", MINUS)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values from at or below `low` to at or above `high`; always at least two.

    A range too narrow to tell apart from a single value is widened around it.
    """
    if high - low <= max(abs(low), abs(high)) * 1e-9 or high - low < 1e-290:
        pad = abs(low) * 0.5 or 1.0
        low, high = low - pad, high + pad
    step = _round_up((high - low) / about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.15g}") for index in range(first, last + 1)]


def tick_labels(values: list[float]) -> list[str]:
    """Labels of equally spaced ticks, all with the digits that tell them apart."""
    labels = _tick_labels(values) if values else []
    return labels if len(set(labels)) == len(labels) else [f"{value:.15g}".replace("-", MINUS) for value in values]


def _tick_labels(values: list[float]) -> list[str]:
    largest = max(abs(value) for value in values)
    step = abs(values[1] - values[0]) if len(values) > 1 else largest
    if 1e5 <= largest < 1e15 and step >= 1:
        return [_suffixed(value) for value in values]
    if largest >= 1e5 or 0 < step < 1e-4:
        return [_scientific(value) if value else "0" for value in values]
    decimals = 0
    while decimals < 5 and abs(round(step, decimals) - step) > step * 1e-6:
        decimals += 1
    return [f"{value:,.{decimals}f}".replace("-", MINUS) for value in values]


def _written_out(value: float) -> bool:
    """Whether the value reads better written out than as a power of ten."""
    return value == 0 or 1e-4 <= abs(value) < 1e6


def _decimals(value: float) -> int:
    size = abs(value)
    if size == 0 or size >= 0.01:
        return 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return 2 - math.floor(math.log10(size))


def _suffixed(value: float) -> str:
    size, suffix = next((pair for pair in _SUFFIXES if abs(value) >= pair[0]), (1.0, ""))
    return f"{value / size:.6g}{suffix}".replace("-", MINUS)


def _round_up(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next((factor * power for factor in (1, 2, 2.5, 5) if factor * power >= step * 0.999), 10 * power)


def _scientific(value: float) -> str:
    mantissa, exponent = f"{value:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
