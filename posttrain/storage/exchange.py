"""Fetching artifacts, models and data from URIs, and publishing artifacts to them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Container
from pathlib import Path, PurePosixPath

from posttrain.artifacts.artifact import whole_or_nothing
from posttrain.artifacts.digests import RECORD_FILE, is_content
from posttrain.errors import ContractError, DataError
from posttrain.storage.cache import cache_from, key_of
from posttrain.storage.failures import of_disk
from posttrain.storage.layout import MARKER
from posttrain.storage.store import Entry, Store, open_object, open_store
from posttrain.storage.uris import parse


def fetch(uri: str, scratch: Path) -> Path:
    """A local path with what lies at `uri`: a file or a directory.

    Args:
        uri: a path, `file://…` or `s3://bucket/key-or-prefix`.
        scratch: a directory for downloads; local URIs are used where they are, and what the node's cache keeps
            (`cache.py`) there: do not change it.

    Raises:
        DataError: nothing is there, or what is no model or data: checkpoints, links, names that no disk can have.
        StorageError: the store failed or refused.
    """
    place = parse(uri)
    if place.scheme == "file":
        path = Path(place.path)
        with of_disk(uri):
            if not path.exists():
                raise DataError(f"{uri}: no such file or directory; check the path, also inside the container")
            if path.is_dir():
                _refuse_checkpoints(uri, _files(path))
        return path
    store, files = _objects(uri, place.path)
    cache, name = cache_from(os.environ), PurePosixPath(place.path).name

    def fill(directory: Path) -> None:
        store.get({entry.name: directory / path for entry, path in files})

    if cache:
        entries = [entry for entry, _ in files]
        kept = cache.fetched(key_of(store, entries, name), sum(entry.size for entry in entries), fill)
        if kept:
            return kept / name
    fill(scratch)
    return scratch / name


def _objects(uri: str, path: str) -> tuple[Store, list[tuple[Entry, PurePosixPath]]]:
    """What lies at a URI, and where it goes: the objects below a prefix, or the one that has the key."""
    store, called = open_store(uri), PurePosixPath(PurePosixPath(path).name)
    below = {entry.name: entry for entry in store.list()}
    if below:
        _refuse_checkpoints(uri, below)
        for name in below:
            if file := next((each for each in PurePosixPath(name).parents if each.as_posix() in below), None):
                raise DataError(f"{uri}: has an object {file.as_posix()!r} beside {name!r}; rename or remove one")
        return store, [(entry, called / name) for name, entry in below.items()]
    above, name = open_object(uri)
    for entry in above.list(name):
        if entry.name == name:  # before all others that begin so
            return above, [(entry, called)]
        break
    raise DataError(f"{uri}: nothing there; check bucket and key")


def publish(directory: Path, uri: str) -> None:
    """Put an artifact at `uri`; its record goes last, so what has a record is whole.

    A link to a file is published as the file: models in Hugging Face's cache are made of such links.

    Raises:
        DataError: a link to a directory or to nothing, or something that is no file, lies in the directory.
        StorageError: the store failed or refused.
        ContractError: something else is there already.
    """
    place, files = parse(uri), _files(directory)
    if place.scheme == "file":
        with of_disk(uri), whole_or_nothing(Path(place.path)) as scratch:
            shutil.copytree(directory, scratch, dirs_exist_ok=True)
        return
    store = open_store(uri)
    refuse_others(store, files)
    last = {name: files.pop(name) for name in (RECORD_FILE,) if name in files}
    store.put(files)
    store.put(last)


def refuse_others(store: Store, names: Container[str]) -> None:
    """A place for an artifact may hold what its own try left there, and nothing else.

    Raises:
        ContractError: it does.
    """
    for entry in store.list():
        if entry.name not in names and is_content(PurePosixPath(entry.name)):
            raise ContractError(f"{store.uri}: holds something else ({entry.name}); choose another place or empty it")


def _refuse_checkpoints(uri: str, names: Container[str]) -> None:
    if MARKER in names:
        raise DataError(f"{uri}: holds a run's checkpoints; write one as a model first, posttrain checkpoints export")


def _files(directory: Path) -> dict[str, Path]:
    """Name → file of all that lies in a directory.

    Raises:
        DataError: a link to a directory or to nothing, or something that is no file, lies there.
    """
    files = {}
    for path in directory.rglob("*"):
        if path.is_file():
            files[path.relative_to(directory).as_posix()] = path
        elif path.is_symlink() or not path.is_dir():
            kind = "a link to a directory or to nothing" if path.is_symlink() else "no file"
            raise DataError(f"{path}: {kind} cannot be taken along; put the files themselves there, or remove it")
    return files


def read_text(uri: str) -> str | None:
    """A small text object, or None where there is none."""
    store, name = open_object(uri)
    content = store.read(name)
    return None if content is None else content.decode()


def write_text(uri: str, text: str) -> None:
    """Replace a small text object in one step."""
    store, name = open_object(uri)
    store.write(name, text.encode())
