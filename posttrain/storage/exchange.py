"""Fetching artifacts, models and data from URIs, and publishing artifacts to them."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

from posttrain.artifacts.artifact import whole_or_nothing
from posttrain.artifacts.digests import RECORD_FILE
from posttrain.errors import DataError
from posttrain.storage.store import open_object, open_store
from posttrain.storage.uris import parse


def fetch(uri: str, scratch: Path) -> Path:
    """A local path with what lies at `uri`: a file or a directory.

    Args:
        uri: a path, `file://…` or `s3://bucket/key-or-prefix`.
        scratch: a directory for downloads; local URIs are used where they are.

    Raises:
        DataError: nothing is there.
        StorageError: the store failed or refused.
    """
    place = parse(uri)
    if place.scheme == "file":
        path = Path(place.path)
        if not path.exists():
            raise DataError(f"{uri}: no such file or directory; check the path, also inside the container")
        return path
    target = scratch / PurePosixPath(place.path).name
    store = open_store(uri)
    names = [entry.name for entry in store.list()]
    if names:
        store.get({name: target / name for name in names})
    else:
        above, name = open_object(uri)
        above.get({name: target})
    return target


def publish(directory: Path, uri: str) -> None:
    """Put an artifact at `uri`; its record goes last, so what has a record is whole.

    A link to a file is published as the file: models in Hugging Face's cache are made of such links.

    Raises:
        DataError: a link to a directory or to nothing, or something that is no file, lies in the directory.
        StorageError: the store failed or refused.
        ContractError: something else is there already (local).
    """
    place, files = parse(uri), _files(directory)
    if place.scheme == "file":
        with whole_or_nothing(Path(place.path)) as scratch:
            shutil.copytree(directory, scratch, dirs_exist_ok=True)
        return
    store = open_store(uri)
    last = {name: files.pop(name) for name in (RECORD_FILE,) if name in files}
    store.put(files)
    store.put(last)


def _files(directory: Path) -> dict[str, Path]:
    """Name → file of all that is published."""
    files = {}
    for path in directory.rglob("*"):
        if path.is_file():
            files[path.relative_to(directory).as_posix()] = path
        elif path.is_symlink() or not path.is_dir():
            kind = "a link to a directory or to nothing" if path.is_symlink() else "no file"
            raise DataError(f"{path}: {kind} cannot be published; put the files themselves there, or remove it")
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
