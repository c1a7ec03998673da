"""A store: named objects below one URI, on a disk or in S3, behind one small interface.

Names are relative POSIX paths below the URI that the store was opened at. Writing is whole or nothing: a reader sees
an object as it was, or as it is, never half of it. `create` and `swap` are the operations that two writers cannot both
win; everything that must be decided once (a commit, a claim, a champion) is decided by them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from posttrain.artifacts.record import FileEntry
from posttrain.errors import DataError
from posttrain.storage.options import S3Options, options_from
from posttrain.storage.uris import Place, parse

# What can be stored: a file, or the pieces of one in memory, which are sent without being joined.
Source = Path | Sequence[memoryview]

PARTIAL = ".partial-"  # begins the names of files that are not whole yet


@dataclass(frozen=True)
class Entry:
    """A stored object: its name, its size in bytes, when it was written (seconds since the epoch); in S3 its ETag."""

    name: str
    size: int
    modified: float
    etag: str = ""


class Store(Protocol):
    """Objects below a URI.

    Every method raises StorageError if the store failed, refused, or stayed away for longer than the retries last.
    """

    uri: str

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object whose name starts with `prefix`, in the order of names."""

    def read(self, name: str) -> bytes | None:
        """A small object; None where there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Put or replace a small object in one step."""

    def create(self, name: str, content: bytes) -> bool:
        """Put a small object unless there is one: of any number of writers, one is told True.

        The content should tell the writer, so that it knows its own object again if the store's answer was lost.
        """

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Replace a small object if it still is what was read (None = not there), which of many writers only one may.

        The content should tell the writer, as in `create`.
        """

    def get(self, files: Mapping[str, Path]) -> None:
        """Fetch objects into files, side by side; a file has its name once it is whole.

        Raises:
            DataError: one is not there.
        """

    def put(self, sources: Mapping[str, Source]) -> None:
        """Send files or pieces in memory to objects, side by side."""

    def copy(self, source: Store, files: Mapping[str, FileEntry]) -> bool:
        """Have the objects of these names copied here from another store, without their bytes coming by.

        Each copy is compared with its SHA-256, as whoever made it read it.

        Returns:
            Whether all were; if not, none is left: another service, too large an object, other bytes than recorded.
        """

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""

    def sweep(self, older: float) -> int:
        """Remove what writers that died left half-written more than `older` seconds ago; returns how many."""


def open_store(uri: str, options: S3Options | None = None) -> Store:
    """The store at a path, `file://…` or `s3://bucket/prefix`. Nothing is asked of it yet.

    Args:
        uri: where its objects lie.
        options: how to reach S3, if not as the environment says (`options.py`).

    Raises:
        ConfigError: the scheme is unknown, no bucket is named, or a variable of the environment is wrong.
    """
    return _store(parse(uri), options)


def open_object(uri: str, options: S3Options | None = None) -> tuple[Store, str]:
    """The store that an object lies in, and its name there.

    Raises:
        ConfigError: as `open_store`.
    """
    place = parse(uri)
    above, _, name = place.path.rpartition("/")
    return _store(replace(place, path=above or ("." if place.scheme == "file" else "")), options), name


def _store(place: Place, options: S3Options | None) -> Store:
    if place.scheme == "s3":
        from posttrain.storage.s3 import S3Store

        return S3Store(place, options or options_from(os.environ))
    from posttrain.storage.local import LocalStore

    return LocalStore(place.uri, Path(place.path))


def checked_name(name: str, uri: str) -> str:
    """The name of an object, if it may become the name of a file below a directory.

    Raises:
        DataError: it would leave the directory.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]  # a PurePosixPath takes three times as long
    if name.startswith("/") or ".." in parts or not parts:
        raise DataError(f"{uri}: an object is called {name!r}, which leads out of its directory; rename the object")
    if (plain := "/".join(parts)) != name:  # 'a//b' and 'a/./b' would be one file with 'a/b'
        raise DataError(f"{uri}: an object is called {name!r}, which is no path of a file; rename it {plain}")
    return name
