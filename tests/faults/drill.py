"""Operations of a store through a broken line, each judged by what the server really holds and the disk really got."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from posttrain.errors import RETRYABLE, StorageError
from posttrain.storage.store import Store
from tests.s3 import BUCKET, Server

KIB = 1024
OPERATIONS = ("write", "create", "read", "list", "put", "get", "delete")


class Corrupt(AssertionError):
    """Something that is not what was stored has been accepted, or half of it is visible."""


class Drill:
    """What a stage does to a store, with contents that are known.

    Args:
        store: opened at s3://BUCKET/drill, through the proxy.
        server: the same objects without the proxy.
        large: bytes of the file that is sent in parts.
    """

    # Of all drills: where one has a folder, another may have no object of that name.
    _turns = itertools.count(1)

    def __init__(self, store: Store, server: Server, scratch: Path, seed: int = 0, large: int = 9 << 20) -> None:
        self._store, self._client, self._scratch, self._large = store, server.client, scratch, large
        self._random = random.Random(seed)
        self.refusal = ""  # what the last error said

    def run(self, operation: str, limit: float = 120.0) -> str:
        """How one operation ended: right, refused (with an error that says so and leaves nothing half-done), or hung.

        Raises:
            Corrupt: it was told to be right and is not.
        """
        started = time.monotonic()
        try:
            getattr(self, f"_{operation}")(f"{next(self._turns):04}")
        except StorageError as error:
            if "\n" in str(error) or error.exit_code != RETRYABLE:
                raise Corrupt(f"an error that helps nobody: {error}") from error
            self.refusal = str(error)
            return "refused"
        return "right" if time.monotonic() - started < limit else "hung"

    def _write(self, name: str) -> None:
        old, new = self._bytes(2 * KIB), self._bytes(2 * KIB)
        self._seed(name, old)
        self._whole(lambda: self._store.write(name, new), {name: new}, before=old)

    def _create(self, name: str) -> None:
        mine, other = self._bytes(KIB), self._bytes(KIB)
        won: list[bool] = []
        self._whole(lambda: won.append(self._store.create(name, mine)), {name: mine})
        self._is(won == [True], f"{name}: nobody else was there, and the claim is lost")
        self._whole(lambda: won.append(self._store.create(name, other)), {name: mine})
        self._is(won == [True, False], f"{name}: claimed twice")

    def _read(self, name: str) -> None:
        content = self._bytes(50 * KIB)
        self._seed(name, content)
        self._is(self._store.read(name) == content, f"{name}: read wrongly")
        self._is(self._store.read(f"{name}-missing") is None, f"{name}: found what is not there")

    def _list(self, name: str) -> None:
        for number in range(3):
            self._seed(f"{name}/{number}", b"x" * number)
        listed = [(entry.name, entry.size) for entry in self._store.list(f"{name}/")]
        self._is(listed == [(f"{name}/{number}", number) for number in range(3)], f"{name}: listed {listed}")

    def _put(self, name: str) -> None:
        contents = self._files(name)
        sources: dict[str, Path | list[memoryview]] = {}
        for number, (each, content) in enumerate(contents.items()):
            if number % 2:
                sources[each] = [memoryview(content)[:100], memoryview(content)[100:]]
            else:
                sources[each] = self._path(each)
                self._path(each).write_bytes(content)
        self._whole(lambda: self._store.put(sources), contents)

    def _get(self, name: str) -> None:
        contents = self._files(name)
        for each, content in contents.items():
            self._seed(each, content)
        out = {each: self._path(f"{each}.got") for each in contents}
        try:
            self._store.get(out)
        finally:
            for each, path in out.items():
                self._is(not path.exists() or path.read_bytes() == contents[each], f"{each}: got wrong bytes")
                path.unlink(missing_ok=True)
            self._is(not list(self._scratch.rglob(".*")), "left something half-written")

    def _delete(self, name: str) -> None:
        self._seed(name, b"x")
        self._store.delete([name, f"{name}-missing"])
        self._is(self._held(name) is None, f"{name}: still there")

    def _whole(self, act: Callable[[], object], wanted: Mapping[str, bytes], before: bytes | None = None) -> None:
        """Done: everything is there. Refused: each object is whole, or as it was before."""
        try:
            act()
        except StorageError:
            for name, content in wanted.items():
                self._is(self._held(name) in (before, content), f"{name}: refused, and neither as before nor whole")
            raise
        for name, content in wanted.items():
            self._is(self._held(name) == content, f"{name}: not what was stored")

    def _files(self, name: str) -> dict[str, bytes]:
        contents = {f"{name}/{number}": self._bytes(number * 100 * KIB) for number in range(4)}
        return contents | {f"{name}/large": self._bytes(self._large)}

    def _seed(self, name: str, content: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=f"drill/{name}", Body=content)

    def _held(self, name: str) -> bytes | None:
        try:
            body: bytes = self._client.get_object(Bucket=BUCKET, Key=f"drill/{name}")["Body"].read()
        except self._client.exceptions.NoSuchKey:
            return None
        return body

    def _path(self, name: str) -> Path:
        path = self._scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def _is(self, true: bool, otherwise: str) -> None:
        if not true:
            raise Corrupt(otherwise)
