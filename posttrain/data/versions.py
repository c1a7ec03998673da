"""Data that comes in versions: folders side by side, the newest of which a retraining takes.

    <root>/2026-11-28/problems.jsonl   demos.parquet   held_out.jsonl   _SUCCESS
    <root>/2026-11-29/problems/part-0.jsonl   problems/part-1.jsonl     _SUCCESS

What a file or folder is called, without its ending, is the input that it is for. A version counts once its marker is
there, which whoever writes it puts last (Hadoop and Spark do by themselves): half a version is never trained on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from posttrain.artifacts.digests import digest_value
from posttrain.errors import DataError
from posttrain.storage.store import Entry, open_store

MARKER = "_SUCCESS"


@dataclass(frozen=True)
class DataVersion:
    """A folder of data: its name, what tells its content from another's, and input → URI."""

    name: str
    digest: str
    inputs: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Name and content: a version that was written again is another."""
        return f"{self.name}@{self.digest[:12]}"


@dataclass(frozen=True)
class Versions:
    """What lies under a root: finished versions, the oldest first, and the names of those without a marker."""

    ready: list[DataVersion]
    unready: list[str]


def data_versions(root: str, marker: str = MARKER) -> Versions:
    """The versions under a root, in the order of their names; numbers in names count as numbers (v9 before v10).

    Args:
        root: a path, `file://` or `s3://bucket/prefix`.
        marker: the file that says that a version is whole; empty = every folder is.

    Raises:
        DataError: a version has two of a name, as problems.jsonl and problems.parquet.
        StorageError: the store failed or refused.
    """
    root = root.rstrip("/")
    folders: dict[str, list[Entry]] = {}
    for entry in open_store(root).list():
        if "/" in entry.name:
            folders.setdefault(entry.name.partition("/")[0], []).append(entry)
    ordered = sorted(folders, key=_natural)
    whole = {name for name in ordered if not marker or any(e.name == f"{name}/{marker}" for e in folders[name])}
    return Versions(
        [_version(root, name, folders[name]) for name in ordered if name in whole],
        [name for name in ordered if name not in whole],
    )


def _version(root: str, name: str, entries: list[Entry]) -> DataVersion:
    inputs: dict[str, str] = {}
    for entry in entries:
        first = PurePosixPath(entry.name).parts[1]
        stem, uri = first.partition(".")[0], f"{root}/{name}/{first}"
        if stem.startswith("_") or not stem:
            continue
        if inputs.setdefault(stem, uri) != uri:
            raise DataError(f"{root}/{name}: both {inputs[stem].rpartition('/')[2]} and {first} in it; leave one")
    # What a store says of its objects changes whenever they are written; their bytes are not read for it.
    told = sorted([entry.name, entry.size, entry.etag or entry.modified] for entry in entries)
    return DataVersion(name, digest_value(told), inputs)


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
