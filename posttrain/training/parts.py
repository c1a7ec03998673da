"""What a process has of tensors that are spread over processes, and what a checkpoint has of them.

FSDP2 gives a process some rows of every tensor, ZeRO-3 a stretch of its elements. Both are a run of elements in
row-major order, and the runs of all processes, one after the other, are the tensor. A checkpoint keeps them as they
are, each in its process's file (`posttrain.storage.joining`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, empty

from posttrain.storage.joining import PARTS


@dataclass(frozen=True)
class Part:
    """The elements of a tensor that this process has: all of one dimension, and the first one's place in the whole."""

    local: Tensor
    shape: list[int]
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes of what is here."""
        return self.local.nbytes


def part_of(tensor: Tensor, parameter: Any = None) -> Tensor | Part:
    """What this process has of a tensor; one that is not spread is returned as it is. Nothing is copied.

    Args:
        tensor: of a model's or an optimizer's state.
        parameter: that it is the state of, if any: ZeRO-3 hides its own in it.

    Raises:
        TypeError: it is spread in a way that this does not know.
    """
    if isinstance(tensor, DTensor):
        mesh, placements = tensor.device_mesh, tensor.placements
        if mesh.ndim != 1 or placements != (Shard(0),):
            raise TypeError(f"a tensor spread as {placements} over {mesh} cannot be kept; one by its rows can")
        rows = math.ceil(tensor.shape[0] / mesh.size())
        first = min(mesh.get_local_rank() * rows, tensor.shape[0])
        return Part(tensor.to_local().view(-1), list(tensor.shape), first * math.prod(tensor.shape[1:]))
    if hasattr(parameter, "ds_tensor"):
        held, whole = parameter.ds_tensor.detach().view(-1), parameter.ds_numel
        start = min(torch.distributed.get_rank(parameter.ds_process_group) * held.numel(), whole)
        return Part(held[: whole - start], list(parameter.ds_shape), start)  # the last ones are padded
    return tensor


def split(tensors: Mapping[str, Tensor | Part]) -> tuple[dict[str, Tensor], dict[str, Part]]:
    """The tensors that every process has, and the parts that this one has of others."""
    parts = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Part)}
    return {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, Part)}, parts


class Stored(Mapping[str, Tensor]):
    """The tensors of safetensors files, and those of which they hold parts.

    Args:
        files: of what several hold whole, the first one's counts.
        like: a tensor of FSDP2's, as which those that are spread are returned, or None.
    """

    def __init__(self, files: Iterable[Path], like: DTensor | None = None) -> None:
        self._like = like
        self._whole: dict[str, Any] = {}  # name → the file that has it
        self._shapes: dict[str, list[int]] = {}
        self._runs: dict[str, list[tuple[int, Any]]] = {}  # name → first elements, and the files that have them
        for file in files:
            opened = safe_open(file, framework="pt")
            parts = json.loads(opened.metadata().get(PARTS, "{}"))
            for name in opened.keys():  # noqa: SIM118  # it cannot be iterated itself
                if name in parts:
                    self._shapes[name], start = parts[name]
                    self._runs.setdefault(name, []).append((start, opened))
                else:
                    self._whole.setdefault(name, opened)

    def __iter__(self) -> Any:
        yield from (*self._whole, *self._shapes)

    def __len__(self) -> int:
        return len(self._whole) + len(self._shapes)

    def __getitem__(self, name: str) -> Tensor:
        if name in self._whole:
            whole: Tensor = self._whole[name].get_tensor(name)
            return whole
        assert self._like is not None, f"{name} is spread"
        dtype = self._runs[name][0][1].get_slice(name)[:0].dtype
        made = empty(self._shapes[name], dtype=dtype, device_mesh=self._like.device_mesh, placements=[Shard(0)])
        self.fill(name, part_of(made))
        return made

    def fill(self, name: str, held: Tensor | Part) -> None:
        """Read into what this process has of a tensor.

        Raises:
            ValueError: some of its elements are in none of the files that are here.
        """
        if not isinstance(held, Part):
            held.copy_(self[name])
            return
        end, missing = held.start + held.local.numel(), held.local.numel()
        for first, opened in self._runs.get(name, []):
            run = opened.get_slice(name)
            start, stop = max(held.start, first), min(end, first + run.get_shape()[0])
            if start < stop:
                held.local[start - held.start : stop - held.start].copy_(run[start - first : stop - first])
                missing -= stop - start
        if missing:
            raise ValueError(f"{name}: {missing} elements from {held.start} on are in no file")
