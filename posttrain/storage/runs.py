"""Which runs have checkpoints below a URI; one listing of names tells, and nothing is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from posttrain.errors import DataError
from posttrain.storage.layout import BLOBS, COMMITS
from posttrain.storage.store import open_store

_PART = re.compile(rf"(?P<run>.+/)?(?P<part>{COMMITS}|{BLOBS})(?P<name>[^/]+)")


@dataclass
class Run:
    """A run's checkpoints as their names show them.

    `steps`: step → when it was committed, in seconds since the epoch; `size`: bytes of all that is kept.
    """

    name: str
    uri: str
    steps: dict[int, float] = field(default_factory=dict)
    size: int = 0


def runs_below(uri: str) -> list[Run]:
    """Every run at a URI, whose name is then empty, or below it.

    Raises:
        DataError: there is none.
        StorageError: the store failed or refused.
    """
    found: dict[str, Run] = {}
    for entry in open_store(uri).list():
        match = _PART.fullmatch(entry.name)
        if match is None:
            continue
        name = (match["run"] or "").rstrip("/")
        run = found.setdefault(name, Run(name, f"{uri.rstrip('/')}/{name}".rstrip("/")))
        if match["part"] == BLOBS:
            run.size += entry.size
        elif (step := match["name"].removesuffix(".json")).isdigit():
            run.steps[int(step)] = entry.modified
    if not found:
        raise DataError(f"{uri}: no checkpoints here, nor below; give a run's checkpoint_uri, or a prefix of several")
    return [found[name] for name in sorted(found)]
