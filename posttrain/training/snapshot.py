"""Tensors as safetensors files in main memory: copied once, while training waits, and then sent from there."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posttrain.artifacts.policy import safetensors_start
from posttrain.storage.joining import PARTS
from posttrain.training.parts import Part, split

# As safetensors calls them; the widest first, so that every tensor starts at a multiple of its own width.
_NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.bool: "BOOL",
}
_ORDER = list(_NAMES)
_Bytes = NDArray[np.uint8]
_THREADS = 8  # that copy, where torch may use as many: main memory is no faster with more


class HostCopies:
    """Buffers in main memory, one a file: allocated when a file is first copied, or outgrows its buffer, and reused.

    What a copy returns is overwritten by the next copy of that file.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def copy(self, files: Mapping[str, Mapping[str, Tensor | Part]]) -> dict[str, list[memoryview]]:
        """Copy the tensors of each file; returns the pieces of the files.

        Raises:
            KeyError: safetensors has no such type.
        """
        jobs: list[tuple[_Bytes, _Bytes]] = []
        pieces = {name: self._laid_out(name, tensors, jobs) for name, tensors in files.items()}
        # Torch's own threads wait for each other at every tensor, ten times as long where cores are contended.
        with ThreadPoolExecutor(min(_THREADS, torch.get_num_threads())) as pool:
            list(pool.map(lambda job: np.copyto(*job), jobs))
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the copies are only queued
        return pieces

    def reserve(self, files: Mapping[str, Mapping[str, Tensor | Part]]) -> Callable[[], None]:
        """What allocates the buffers of these files, and touches their memory: most of what a first copy costs."""
        sizes = {name: sum(tensor.nbytes for tensor in tensors.values()) for name, tensors in files.items()}

        def allocate() -> None:
            for name, size in sizes.items():
                self._buffer(name, size).numpy()[:: mmap.PAGESIZE] = 0

        return allocate

    def _laid_out(
        self, file: str, held: Mapping[str, Tensor | Part], jobs: list[tuple[_Bytes, _Bytes]]
    ) -> list[memoryview]:
        """The pieces of a file; what lies in main memory itself is yet to be copied, by the jobs: (to, from)."""
        tensors, parts = split(held)
        about = {PARTS: json.dumps({name: [part.shape, part.start] for name, part in parts.items()})} if parts else {}
        tensors |= {name: part.local for name, part in parts.items()}
        described, size = {}, 0
        for name in sorted(tensors, key=lambda name: (_ORDER.index(tensors[name].dtype), name)):
            tensor, start = tensors[name], size
            size += tensor.nbytes
            described[name] = {
                "dtype": _NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, size],
            }
        buffer = self._buffer(file, size)
        for name, place in described.items():
            start, end = place["data_offsets"]
            tensor, target = tensors[name].detach(), buffer[start:end]
            if tensor.device.type == "cpu" and tensor.is_contiguous():
                jobs.append((target.numpy(), tensor.view(-1).view(torch.uint8).numpy()))
            elif end > start:
                target.view(tensor.dtype).view(tensor.shape).copy_(tensor, non_blocking=True)
        return [memoryview(safetensors_start(described, about)), memoryview(buffer.numpy())[:size]]

    def _buffer(self, file: str, size: int) -> Tensor:
        held = self._buffers.get(file)
        if held is None or held.numel() < size:
            self._buffers.pop(file, None)
            held = None  # freed before another is allocated
            self._buffers[file] = torch.empty(size, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        return self._buffers[file]
