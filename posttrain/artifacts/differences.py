"""Where two JSON values differ, named so that a person finds the place in either."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

ABSENT = object()
_LONG = 60  # characters of a value shown; a component's whole code is one value


class Difference(NamedTuple):
    """A place, and what either value has there: `ABSENT` if nothing."""

    place: str
    old: Any
    new: Any


def differences(old: Any, new: Any, place: str = "") -> Iterator[Difference]:
    """Each place in which two JSON values differ, in the order of the names: `root.tasks.sft`, `betas[1]`.

    Lists of unlike lengths differ as wholes: which element is new is not to be known. Numbers are compared as numbers,
    since 3.0, which KFP's compiler writes, is 3, which its server says.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key, ABSENT), new.get(key, ABSENT), f"{place}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{place}[{number}]")
    elif old != new:
        yield Difference(place, old, new)


def shown(value: Any) -> str:
    """A value in a line of text, the end of a long one left out."""
    if value is ABSENT:
        return "absent"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONG else f"{text[:_LONG]}… ({len(text)} characters)"
