"""Stretches of what is to be sent, from a file or from pieces in memory, read block by block and never joined."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from posttrain.errors import StorageError
from posttrain.storage.checksums import BLOCK, checksum
from posttrain.storage.store import Source

_local = threading.local()


def buffer() -> memoryview:
    """This thread's block of memory, used again and again."""
    if not hasattr(_local, "buffer"):
        _local.buffer = memoryview(bytearray(BLOCK))
    return _local.buffer


def size_of(source: Source) -> int:
    """Bytes of a file or of pieces."""
    return source.stat().st_size if isinstance(source, Path) else sum(piece.nbytes for piece in source)


class Stretch:
    """`length` bytes of a source from `start`, as a file for botocore."""

    def __init__(self, source: Source, start: int, length: int) -> None:
        self._source, self._start, self._length = source, start, length
        self.seek(0)

    def __len__(self) -> int:
        return self._length

    def checksum(self) -> int:
        """The CRC-64 of all of it."""
        value = 0
        for block in self._blocks(0):
            value = checksum(block, value)
        return value

    def read(self, size: int = -1) -> memoryview | bytes:
        """The next block; the size that is asked for (16 KiB by http.client) would cost a call for each."""
        return next(self._rest, b"")

    def seek(self, offset: int, whence: int = 0) -> int:
        """Start again at an offset from its beginning."""
        self._rest = self._blocks(offset)
        return offset

    def tell(self) -> int:
        """Nothing is read before it is sent, so: its beginning."""
        return 0

    def _blocks(self, offset: int) -> Iterator[memoryview]:
        if isinstance(self._source, Path):
            return _of_file(self._source, self._start + offset, self._length - offset)
        return _of_pieces(self._source, self._start + offset, self._length - offset)


def _of_file(path: Path, start: int, length: int) -> Iterator[memoryview]:
    block = buffer()
    with path.open("rb", buffering=0) as file:
        while length:
            got = os.preadv(file.fileno(), [block[:length]], start)
            if not got:
                raise StorageError(f"{path}: became shorter while it was sent; send it when nothing writes it any more")
            yield block[:got]
            start, length = start + got, length - got


def _of_pieces(pieces: Sequence[memoryview], start: int, length: int) -> Iterator[memoryview]:
    for piece in pieces:
        if start < piece.nbytes and length:
            stretch = piece.cast("B")[start : start + length]
            length -= stretch.nbytes
            yield from (stretch[at : at + BLOCK] for at in range(0, stretch.nbytes, BLOCK))
        start = max(0, start - piece.nbytes)
