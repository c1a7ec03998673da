"""A store in a directory: files appear under their names by one rename or link, so nothing half-written has a name."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path

from posttrain.artifacts.digests import digest_files
from posttrain.artifacts.record import FileEntry
from posttrain.errors import DataError
from posttrain.storage.failures import of_disk
from posttrain.storage.store import PARTIAL, Entry, Source, Store, checked_name

_LOCK = ".lock-"  # begins the names of files that are locked while an object is swapped; they stay


class LocalStore:
    """Objects as files of a directory, which need not be there yet."""

    def __init__(self, uri: str, root: Path) -> None:
        self.uri, self._root = uri, root

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See `Store`."""
        folder, _, start = prefix.rpartition("/")
        with self._errors():  # only what starts so is looked at: a folder may hold ten thousands of files
            heads = (self._root / folder).glob(f"{glob.escape(start)}*")
            paths = chain.from_iterable(head.rglob("*") if head.is_dir() else [head] for head in heads)
            found = {path.relative_to(self._root).as_posix(): path for path in paths if path.is_file()}
        for name in sorted(found):
            if name.startswith(prefix) and not found[name].name.startswith((PARTIAL, _LOCK)):
                try:
                    about = found[name].stat()
                except FileNotFoundError:  # removed since
                    continue
                yield Entry(name, about.st_size, about.st_mtime)

    def read(self, name: str) -> bytes | None:
        """See `Store`."""
        with self._errors():
            path = self._path(name)
            return path.read_bytes() if path.is_file() else None

    def write(self, name: str, content: bytes) -> None:
        """See `Store`."""
        with self._errors(), self._partial(name) as partial:
            partial.write_bytes(content)
            _flush(partial)
            partial.replace(self._path(name))

    def create(self, name: str, content: bytes) -> bool:
        """See `Store`."""
        with self._errors(), self._partial(name) as partial:
            partial.write_bytes(content)
            _flush(partial)
            try:
                os.link(partial, self._path(name))  # unlike a rename, it replaces nothing
            except FileExistsError:
                return False
            return True

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """See `Store`. A file beside the object is locked meanwhile, which ends with the process that does it."""
        with self._errors():
            path = self._path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.with_name(f"{_LOCK}{path.name}").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self.read(name) != old:
                    return False
                self.write(name, new)
                return True

    def get(self, files: Mapping[str, Path]) -> None:
        """See `Store`."""
        for name, path in files.items():
            with self._errors():
                if not self._path(name).is_file():
                    raise DataError(f"{self.uri}/{name}: no such file")
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_name(f"{PARTIAL}{path.name}")
                shutil.copyfile(self._path(name), partial)
                partial.replace(path)

    def put(self, sources: Mapping[str, Source]) -> None:
        """See `Store`."""
        for name, source in sources.items():
            with self._errors(), self._partial(name) as partial:
                if isinstance(source, Path):
                    shutil.copyfile(source, partial)
                else:
                    with partial.open("wb") as file:
                        for piece in source:
                            file.write(piece)
                _flush(partial)
                partial.replace(self._path(name))

    def copy(self, source: Store, files: Mapping[str, FileEntry]) -> bool:
        """See `Store`."""
        if not isinstance(source, LocalStore):
            return False
        self.put({name: source._path(name) for name in files})
        if digest_files([self._path(name) for name in files]) == [file.sha256 for file in files.values()]:
            return True
        self.delete(files)
        return False

    def delete(self, names: Iterable[str]) -> None:
        """See `Store`."""
        with self._errors():
            for name in names:
                self._path(name).unlink(missing_ok=True)

    def sweep(self, older: float) -> int:
        """See `Store`."""
        swept, before = 0, time.time() - older
        with self._errors():
            for path in self._root.rglob(f"{PARTIAL}*"):
                if path.stat().st_mtime < before:
                    path.unlink(missing_ok=True)
                    swept += 1
        return swept

    def _path(self, name: str) -> Path:
        return self._root / checked_name(name, self.uri)

    @contextmanager
    def _partial(self, name: str) -> Iterator[Path]:
        """A file to be written beside the object, and gone afterwards."""
        target = self._path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=PARTIAL, dir=target.parent)
        os.close(descriptor)
        try:
            yield Path(partial)
        finally:
            Path(partial).unlink(missing_ok=True)

    def _errors(self) -> AbstractContextManager[None]:
        return of_disk(self.uri)


def _flush(path: Path) -> None:
    """A name must not outlive, in a crash of the machine, the bytes it names."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
