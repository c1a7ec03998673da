"""A weight file that a checkpoint holds in parts, each process's in a file of its own, joined to the file that it is.

A part is a run of a tensor's elements, in row-major order. The header of its file says under `parts` of what: name →
shape of the whole, and the place of the first element. Bytes are copied block by block: no tensor is whole in memory,
and torch is not needed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from posttrain.artifacts.policy import safetensors_header, safetensors_start
from posttrain.errors import DamagedError

PARTS = "parts"
_BLOCK = 2**22


def own(rank: int) -> str:
    """How the names of a process's own files begin: `rank-00003`.json, `rank-00003`.model.safetensors."""
    return f"rank-{rank:05d}"


def files_of(rank: int) -> Callable[[str], bool]:
    """Which files of a checkpoint a process reads: what all share, and its own."""
    mine = f"{own(rank)}."
    return lambda name: not name.startswith("rank-") or name.startswith(mine)


@dataclass
class _Tensor:
    """A tensor and where the runs of its elements lie: file, first byte, bytes, first element."""

    dtype: str
    shape: list[int]
    width: int = 0  # bytes of an element; 0 as long as there is none
    runs: list[tuple[Path, int, int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.width


def join(directory: Path, file: str) -> None:
    """Make one file of a directory's parts of it, which go; without parts, everything stays as it is.

    Raises:
        DamagedError: the parts are not all there.
    """
    whole, parts = directory / file, sorted(directory.glob(f"rank-*.{file}"))
    if not parts:
        return
    sources = [*parts, whole] if whole.exists() else parts
    tensors = _tensors(sources)
    for name, tensor in tensors.items():
        held = sum(size for _, _, size, _ in tensor.runs)
        if held != tensor.size:
            raise DamagedError(f"{directory}: {held} of {tensor.size} bytes of {name} are in {len(parts)} parts")
    joined = directory / f".{file}"
    with joined.open("wb") as sink:
        _write(tensors, sink)
    for source in sources:
        source.unlink()
    joined.rename(whole)


def _tensors(sources: list[Path]) -> dict[str, _Tensor]:
    tensors: dict[str, _Tensor] = {}
    for source in sources:
        header = safetensors_header(source)
        parts = json.loads(header.pop("__metadata__", {}).get(PARTS, "{}"))
        data = source.stat().st_size - max((each["data_offsets"][1] for each in header.values()), default=0)
        for name, each in header.items():
            shape, start = parts.get(name, (each["shape"], 0))
            tensor = tensors.setdefault(name, _Tensor(each["dtype"], shape))
            first, last = each["data_offsets"]
            if last > first:
                tensor.width = (last - first) // math.prod(each["shape"])
                tensor.runs.append((source, data + first, last - first, start))
    return tensors


def _write(tensors: dict[str, _Tensor], sink: BinaryIO) -> None:
    """The widest first, so that every tensor starts at a multiple of its own width."""
    described: dict[str, dict[str, Any]] = {}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].width, item[0])):
        start, end = end, end + tensor.size
        described[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    sink.write(safetensors_start(described))
    data = sink.tell()
    for name, tensor in tensors.items():
        for source, at, size, first in tensor.runs:
            sink.seek(data + described[name]["data_offsets"][0] + first * tensor.width)
            with source.open("rb") as stream:
                stream.seek(at)
                while size:
                    size -= sink.write(stream.read(min(size, _BLOCK)))
