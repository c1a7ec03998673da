"""Manifests of many steps in one object: who lists, judges and thins out thousands of checkpoints reads dozens.

The index only saves reading: what is in it counts as far as the manifest itself is there. A writer makes a segment
when so many manifests are in none; most runs keep too few for that. One that goes on from a step first removes the
segments about later ones: their manifests may be other ones soon.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import ValidationError

from posttrain.storage.layout import INDEX
from posttrain.storage.manifest import FORMAT, Identity, Manifest
from posttrain.storage.store import Store

SEGMENT = 256
_THREADS = 8
Given = TypeVar("Given")
Got = TypeVar("Got")


def side_by_side(work: Callable[[Given], Got], items: Collection[Given]) -> list[Got]:
    """Small requests, several at a time; results in the order of items."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(_THREADS, len(items))) as pool:
        return list(pool.map(work, items))


def segments(store: Store) -> dict[str, tuple[int, int]]:
    """The segments by name, and which steps each is about: first and last."""
    found = {}
    for entry in store.list(INDEX):
        first, _, last = entry.name.removeprefix(INDEX).removesuffix(".json").partition("-")
        if first.isdigit() and last.isdigit():
            found[entry.name] = (int(first), int(last))
    return found


def read_index(store: Store) -> dict[int, Manifest]:
    """Every manifest that is in a segment, by step."""
    read = side_by_side(store.read, list(segments(store)))
    return {manifest.step: manifest for content in read if content is not None for manifest in _opened(content)}


def write_segment(store: Store, manifests: Collection[Manifest]) -> None:
    """Write the manifests of steps that no segment is about."""
    identities = {manifest.identity.digest: manifest.identity for manifest in manifests}
    content = {
        "format": FORMAT,
        "identities": {digest: identity.model_dump(mode="json") for digest, identity in identities.items()},
        "manifests": [
            {**json.loads(manifest.model_dump_json(exclude={"identity"})), "identity": manifest.identity.digest}
            for manifest in manifests
        ],
    }
    steps = [manifest.step for manifest in manifests]
    store.write(f"{INDEX}{min(steps):010}-{max(steps):010}.json", json.dumps(content).encode())


def forget(store: Store, after: int) -> None:
    """Remove every segment that is about steps after one."""
    if stale := [name for name, (_, last) in segments(store).items() if last > after]:
        store.delete(stale)


def empty(store: Store, steps: Collection[int]) -> list[str]:
    """The segments about none of the steps, which are all that there are, but for later ones."""
    newest = max(steps, default=-1)
    return [
        name
        for name, (first, last) in segments(store).items()
        if last < newest and not any(first <= step <= last for step in steps)
    ]


def _opened(content: bytes) -> list[Manifest]:
    """What cannot be read is left to the manifests themselves."""
    try:
        read = json.loads(content)
        identities = {digest: Identity.model_validate(value) for digest, value in read["identities"].items()}
        return [
            Manifest.model_validate({**value, "identity": identities[value["identity"]]}) for value in read["manifests"]
        ]
    except (ValueError, KeyError, TypeError, ValidationError):
        return []
