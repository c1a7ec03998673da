"""What is fetched from a store stays on the node: by content, bounded in size, shared by the pods that run there.

    POSTTRAIN_CACHE        a directory of the node; without it nothing is kept
    POSTTRAIN_CACHE_SIZE   how much it may hold: bytes, or 200GiB, 1.5TB … (default 100GiB)

    <directory>/<key>/digests.json      SHA-256 of each file; its time is that of the last use
    <directory>/<key>/files/<name>      what was fetched; a directory or a file
    <directory>/<key>.partial/          what is being fetched
    <directory>/<key>.use, <key>.fetch  locks; the system releases them when a process ends, however it does

The key names the content: the record's digest, or that of names, ETags and sizes where there is no record.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from posttrain.artifacts.digests import RECORD_FILE, digest_files, digest_value
from posttrain.errors import ConfigError
from posttrain.storage.failures import of_disk
from posttrain.storage.store import Entry, Store

DIRECTORY, SIZE = "POSTTRAIN_CACHE", "POSTTRAIN_CACHE_SIZE"
_DIGESTS, _FILES, _PARTIAL, _GOING = "digests.json", "files", ".partial", ".going-"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}

# Entries that this process was given: it may open their files until it ends.
_in_use: dict[Path, int] = {}


@dataclass(frozen=True)
class Cache:
    """A directory that holds up to `size` bytes."""

    directory: Path
    size: int

    def fetched(self, key: str, size: int, fetch: Callable[[Path], None]) -> Path | None:
        """The directory with what `fetch` puts into one, fetched once however many ask; kept until this process ends.

        Args:
            key: names the content.
            size: its bytes.
            fetch: fills an empty directory.

        Returns:
            None if there is no room for it beside what is in use.

        Raises:
            StorageError: the directory cannot be used.
        """
        entry = self.directory / key
        with of_disk(str(self.directory), DIRECTORY):
            self.directory.mkdir(parents=True, exist_ok=True)
            _use(entry)
            if not _verified(entry):
                with _locked(_beside(entry, ".fetch")):
                    if not _verified(entry) and not self._replaced(entry, size, fetch):
                        return None
            os.utime(entry / _DIGESTS)
        return entry / _FILES

    def _replaced(self, entry: Path, size: int, fetch: Callable[[Path], None]) -> bool:
        """Whether there was room to fetch it, in the place of what is damaged or was left half-done."""
        partial = _beside(entry, _PARTIAL)
        _removed(entry)
        _removed(partial)
        if not self._room(partial, size):
            return False
        try:
            (partial / _FILES).mkdir()
            fetch(partial / _FILES)
            files = sorted(path for path in (partial / _FILES).rglob("*") if path.is_file())
            names = [path.relative_to(partial / _FILES).as_posix() for path in files]
            (partial / _DIGESTS).write_text(json.dumps(dict(zip(names, digest_files(files), strict=True))))
            partial.rename(entry)
        finally:
            _removed(partial)
        return True

    def _room(self, partial: Path, size: int) -> bool:
        """Make `partial`, which counts with its size from now on, unless the unused ones gone leave too little room."""
        with _locked(self.directory / "room"):
            for path in self.directory.glob(f"{_GOING}*"):  # whoever began it may have died
                shutil.rmtree(path, ignore_errors=True)
            sizes = {path: _size(path) for path in self.directory.iterdir() if path.is_dir()}
            for path in sorted(sizes, key=_last_use):
                if sum(sizes.values()) + size <= self.size:
                    break
                if _given_up(path):
                    del sizes[path]
            if sum(sizes.values()) + size > self.size:
                return False
            partial.mkdir()
            (partial / "size").write_text(str(size))
            return True


def cache_from(environment: Mapping[str, str]) -> Cache | None:
    """The node's cache, if there is one.

    Raises:
        ConfigError: its size is none.
    """
    directory, size = environment.get(DIRECTORY), environment.get(SIZE) or "100GiB"
    if not directory:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", size.strip().upper())
    if not found or found[2] not in _UNITS:
        raise ConfigError(f"{SIZE}={size!r} is no size; give bytes, or a number with a unit as in 200GiB")
    return Cache(Path(directory), int(float(found[1]) * _UNITS[found[2]]))


def key_of(store: Store, entries: Sequence[Entry], name: str) -> str:
    """Names what these entries are, wherever they lie, and what it is called there (a file's suffix tells its kind)."""
    if any(entry.name == RECORD_FILE for entry in entries):
        return digest_value([name, (store.read(RECORD_FILE) or b"").decode(errors="replace")])
    return digest_value([name, *([entry.name, entry.etag, entry.size] for entry in entries)])


def _verified(entry: Path) -> bool:
    try:
        digests = json.loads((entry / _DIGESTS).read_text())
        return digest_files([entry / _FILES / name for name in digests]) == list(digests.values())
    except (OSError, ValueError):
        return False


def _use(entry: Path) -> None:
    """Keep others from giving the entry up for as long as this process lives."""
    if entry not in _in_use:
        lock = _opened(_beside(entry, ".use"))
        fcntl.flock(lock, fcntl.LOCK_SH)
        _in_use[entry] = lock


def _given_up(path: Path) -> bool:
    """Remove an entry, or what a dead process left of one, unless somebody uses it."""
    kind = ".fetch" if path.suffix == _PARTIAL else ".use"
    lock = _opened(_beside(path.with_suffix(""), kind))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _removed(path)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = _opened(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _beside(entry: Path, suffix: str) -> Path:
    return entry.with_name(entry.name + suffix)


def _size(path: Path) -> int:
    try:
        return int((path / "size").read_text())
    except (OSError, ValueError):
        return 0


def _last_use(path: Path) -> float:
    try:
        return (path / _DIGESTS).stat().st_mtime
    except OSError:
        return 0.0


def _removed(path: Path) -> None:
    """At once for those who look, then for good; who has its files open keeps them."""
    if path.exists():
        going = path.with_name(f"{_GOING}{os.getpid()}-{path.name}")
        path.rename(going)
        shutil.rmtree(going, ignore_errors=True)
