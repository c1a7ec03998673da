"""Where the parts of a run's checkpoints lie below their prefix.

checkpoints.json              says that the prefix is ours
claims/<number>.json          who writes here: the highest number does
blobs/<sha256>-<tag>          the bytes of a file, once for all checkpoints in a row that share it
commits/<step>.json           a manifest: the checkpoint exists when, and only when, this does
index/<first>-<last>.json     the manifests of many steps in one object, so that thousands are read at once
aside/<step>-<number>.json    manifests of checkpoints that were damaged, or left behind by a run that began anew
clock                         written to learn what time it is at the store
"""

from __future__ import annotations

import json
import re

from posttrain.errors import ConfigError
from posttrain.storage.store import Store

MARKER, COMMITS, CLAIMS, BLOBS, INDEX, ASIDE, CLOCK = (
    *("checkpoints.json", "commits/", "claims/", "blobs/", "index/", "aside/", "clock"),
)
_NUMBER = re.compile(r"\d+")
# Also of runs below the prefix, or below that.
_OURS = re.compile(rf"(.+/)?(({BLOBS}|{CLAIMS}|{COMMITS}|{INDEX}|{ASIDE}).+|{re.escape(MARKER)}|{CLOCK})")


def commit_name(step: int) -> str:
    """The name of the manifest of a step."""
    return f"{COMMITS}{step:010}.json"


def claim_name(number: int) -> str:
    """The name of a claim."""
    return f"{CLAIMS}{number:06}.json"


def numbers(store: Store, prefix: str) -> list[int]:
    """The steps or claims of which there are objects, in order; their names alone are looked at."""
    found = [_NUMBER.fullmatch(entry.name.removeprefix(prefix).removesuffix(".json")) for entry in store.list(prefix)]
    return sorted(int(match[0]) for match in found if match)


def mark(store: Store) -> None:
    """Take an empty prefix for checkpoints, of a run or of many below it; one that is taken stays as it is.

    Raises:
        ConfigError: it holds something else.
    """
    if store.read(MARKER) is not None:
        return
    first = next(iter(store.list()), None)
    if first and not _OURS.fullmatch(first.name):
        raise ConfigError(f"{store.uri}: holds something else ({first.name}); give checkpoints a prefix of their own")
    store.create(MARKER, json.dumps({"format": 1}).encode() + b"\n")


def store_time(store: Store) -> float:
    """Seconds since the epoch by the store's own clock, from which this machine's may differ."""
    store.write(CLOCK, b"")
    return next(entry.modified for entry in store.list(CLOCK) if entry.name == CLOCK)
