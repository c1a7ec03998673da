"""A policy's stored weights in pieces, without torch: no model, and no large tensor, is ever whole in memory.

Files are read and written by position (`pread`, `pwrite`), not mapped, so what has been read does not stay in the
process, and threads need no order among them. Floats are computed in float32; bfloat16, which NumPy does not know,
is the upper half of a float32.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.artifacts.policy import safetensors_header, weight_files
from posttrain.errors import PolicyError

Floats = NDArray[np.float32]
Raw = NDArray[Any]

# Safetensors' floats as they are stored; anything else is not computed with.
_STORED: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_INFINITE = 0x7F80  # the exponent of an infinite or NaN bfloat16


class Weights:
    """The stored tensors of a policy by name; headers are read at once, pieces of a tensor when they are asked for.

    Raises:
        PolicyError: a weight file is missing, cut short or not safetensors.
    """

    def __init__(self, directory: Path) -> None:
        self.files = weight_files(directory)
        self._described: dict[str, tuple[Path, dict[str, Any]]] = {}
        for file in self.files:
            self._described |= {name: (file, value) for name, value in _tensors(file).items()}
        self._opened = {file: (file.open("rb"), _start_of_data(file)) for file in self.files}

    def __iter__(self) -> Iterator[str]:
        return iter(self._described)

    def __contains__(self, name: str) -> bool:
        return name in self._described

    def shape(self, name: str) -> list[int]:
        """A tensor's shape, from the header alone."""
        return list(self._described[name][1]["shape"])

    def type(self, name: str) -> str:
        """A tensor's type as safetensors calls it: BF16, F32, I64 …"""
        return str(self._described[name][1]["dtype"])

    def floats(self, name: str, piece: slice) -> Floats:
        """A piece of a tensor of floats, read as one long vector, in float32; every `piece.step`th of its elements."""
        stored = _STORED[self.type(name)]
        raw = np.empty(piece.stop - piece.start, stored)
        self._read(name, piece.start * stored.itemsize, raw)
        raw = raw[:: piece.step]
        if self.type(name) != "BF16":
            return np.ascontiguousarray(raw, np.float32)
        wide = raw.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)

    def bytes(self, name: str) -> NDArray[np.uint8]:
        """A tensor as it is stored."""
        first, last = self._described[name][1]["data_offsets"]
        raw = np.empty(last - first, np.uint8)
        self._read(name, 0, raw)
        return raw

    def _read(self, name: str, offset: int, into: Raw) -> None:
        file, described = self._described[name]
        stream, data = self._opened[file]
        place, view = data + described["data_offsets"][0] + offset, into.view(np.uint8).data if into.size else None
        while view:
            count = os.preadv(stream.fileno(), [view], place)
            if count == 0:
                raise PolicyError(f"{file}: cut short while it was read; fetch it again")
            place, view = place + count, view[count:]


def reuse_freed_memory() -> None:
    """Have the C library keep freed arrays for the next ones, up to 32 MiB each and 256 MiB in all.

    By default glibc gives every array of 128 KiB or more back to the kernel, and gets zeroed pages for the next one:
    five to ten times what the arithmetic on it costs. Without glibc nothing changes.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, 2**25)
        library.mallopt(_M_TRIM_THRESHOLD, 2**28)


def is_float(type_: str) -> bool:
    """Whether a tensor of this type can be computed with."""
    return type_ in _STORED


def stored_as(type_: str, values: Floats) -> Raw:
    """Float32 in the type that a tensor is stored in, rounded to the nearest, ties to even; too large is infinite."""
    if type_ != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(_STORED[type_], copy=False)
    bits = values.view(np.uint32)
    rounding = bits >> 16
    rounding &= 1
    rounding += 0x7FFF
    rounding += bits
    rounding >>= 16
    return rounding.astype(np.uint16)


def all_finite(type_: str, stored: Raw) -> bool:
    """Whether no value of what `stored_as` made is NaN or infinite."""
    if type_ == "BF16":
        return not ((stored & _INFINITE) == _INFINITE).any()
    return bool(np.isfinite(stored).all())


class Sink:
    """A safetensors file that is being written, tensors and their pieces in any order."""

    def __init__(self, descriptor: int, data: int, tensors: dict[str, Any]) -> None:
        self._descriptor, self._data, self._tensors = descriptor, data, tensors

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._tensors, key=lambda name: self._tensors[name]["data_offsets"][0]))

    def write(self, name: str, start: int, values: Raw) -> None:
        """Write elements of a tensor, the first of them at index `start`."""
        place = self._data + self._tensors[name]["data_offsets"][0] + start * values.itemsize
        view = values.view(np.uint8).data if values.size else None
        while view:
            count = os.pwrite(self._descriptor, view, place)
            place, view = place + count, view[count:]

    def send(self, name: str) -> None:
        """Have a tensor that is written go to disk now, while the next one is computed, not all of them at the end."""
        first, last = self._tensors[name]["data_offsets"]
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, self._data + first, last - first, os.POSIX_FADV_DONTNEED)


@contextmanager
def written_like(original: Path, out: Path) -> Iterator[Sink]:
    """A new safetensors file with the names, types and shapes of another, for every tensor to be written into.

    The library's own writer wants every tensor at once. The format is a header, copied here, and then the bytes of
    the tensors at their offsets.
    """
    data = _start_of_data(original)
    with original.open("rb") as source, out.open("wb") as sink:
        sink.write(source.read(data))
        sink.flush()
        os.ftruncate(sink.fileno(), original.stat().st_size)
        yield Sink(sink.fileno(), data, _tensors(original))


def _tensors(file: Path) -> dict[str, Any]:
    return {name: value for name, value in safetensors_header(file).items() if name != "__metadata__"}


def _start_of_data(file: Path) -> int:
    with file.open("rb") as stream:
        return 8 + int.from_bytes(stream.read(8), "little")
