"""Plain data as JSON, and back as exact built-in types, whatever subclass it was.

JSON's own scalars stand for themselves; everything else is a list that begins with its kind: `(1, {2})` is
`["tuple", 1, ["set", 2]]`. Not pickle, which runs what it reads; not marshal, which crashes on what is made up.
"""

from __future__ import annotations

import builtins
from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

LISTED: dict[str, Callable[..., Any]] = {
    "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque,
}  # fmt: skip
PAIRED: dict[str, Callable[..., Any]] = {
    "Counter": Counter,
    "dict": dict,
}  # a Counter is a dict too, and so comes first
WRITTEN: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "bytes": (bytes, lambda value: bytes(value).hex(), bytes.fromhex),
    "bytearray": (bytearray, lambda value: bytes(value).hex(), bytearray.fromhex),
    "complex": (complex, lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    "range": (range, lambda value: [hex(n) for n in (value.start, value.stop, value.step)],
              lambda parts: range(*(int(n, 16) for n in parts))),
    "Decimal": (Decimal, str, Decimal),
    "Fraction": (Fraction, lambda value: [hex(value.numerator), hex(value.denominator)],
                 lambda parts: Fraction(*(int(n, 16) for n in parts))),
    "datetime": (datetime, lambda value: value.isoformat(), datetime.fromisoformat),
    "date": (date, lambda value: value.isoformat(), date.fromisoformat),
    "time": (time, lambda value: value.isoformat(), time.fromisoformat),
    "timedelta": (timedelta, lambda value: [value.days, value.seconds, value.microseconds],
                  lambda parts: timedelta(*parts)),
}  # fmt: skip


def encode(value: Any, number: Callable[[Any], Any]) -> Any:
    """A value as JSON can carry it; `number` says how to name what is not plain data."""
    kind = type(value)
    if value is None or kind is bool or kind is float or kind is str:
        return value
    if isinstance(value, int):
        whole = int(value)
        # json refuses numbers over 4300 digits, as int() does; hexadecimal has no such limit.
        return whole if -(1 << 63) < whole < 1 << 63 else ["int", hex(whole)]
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    for name, made in LISTED.items():
        if isinstance(value, made):  # type: ignore[arg-type]
            return [name, *(encode(one, number) for one in value)]
    for name, made in PAIRED.items():
        if isinstance(value, made):  # type: ignore[arg-type]
            return [name, *([encode(key, number), encode(one, number)] for key, one in value.items())]
    for name, (type_, write, _) in WRITTEN.items():
        if isinstance(value, type_):
            return [name, write(value)]
    if kind is slice:
        return ["slice", *(encode(one, number) for one in (value.start, value.stop, value.step))]
    return number(value)


def decode(value: Any, named: Callable[[str, list[Any]], Any]) -> Any:
    """The reverse. Raises an Exception of whatever kind where the JSON is not what `encode` writes."""
    if not isinstance(value, list):
        if isinstance(value, dict):
            raise ValueError("an object of JSON is no value")
        return value
    kind, *rest = value
    if kind in LISTED:
        return LISTED[kind]([decode(one, named) for one in rest])
    if kind in PAIRED:
        return PAIRED[kind]({decode(key, named): decode(one, named) for key, one in rest})
    if kind in WRITTEN:
        return WRITTEN[kind][2](rest[0])
    if kind == "int":
        return int(rest[0], 16)
    if kind == "slice":
        return slice(*(decode(one, named) for one in rest))
    return named(kind, rest)


def exception(kinds: list[str], defined: Mapping[str, type[Exception]]) -> type[Exception]:
    """The nearest class by name, of those defined by the program or built in, that can be made from one text."""
    for kind in kinds:
        found = defined.get(kind) or getattr(builtins, str(kind), None)
        if isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, UnicodeError):
            return found
    return Exception
