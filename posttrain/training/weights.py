"""A policy's stored weights, one tensor at a time: no model is ever whole in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from posttrain.artifacts.policy import safetensors_header, weight_files


class Weights:
    """The stored tensors of a policy by name; headers are read at once, a tensor when it is asked for.

    Raises:
        PolicyError: a weight file is missing, cut short or not safetensors.
    """

    def __init__(self, directory: Path) -> None:
        self.files = weight_files(directory)
        self._file_of: dict[str, Path] = {}
        self._described: dict[str, dict[str, Any]] = {}
        for file in self.files:
            described = {name: value for name, value in safetensors_header(file).items() if name != "__metadata__"}
            self._described |= described
            self._file_of |= dict.fromkeys(described, file)
        self._opened = {file: safe_open(file, framework="pt") for file in self.files}

    def __iter__(self) -> Iterator[str]:
        return iter(self._described)

    def __contains__(self, name: str) -> bool:
        return name in self._described

    def __getitem__(self, name: str) -> Tensor:
        return self._opened[self._file_of[name]].get_tensor(name)

    def shape(self, name: str) -> list[int]:
        """A tensor's shape, from the header alone."""
        return list(self._described[name]["shape"])


def write_like(original: Path, out: Path, tensor_of: Callable[[str], Tensor]) -> None:
    """Write a safetensors file with the names, types and shapes of another, tensor by tensor.

    The library's own writer wants every tensor at once. The format is a header, copied here, and then the bytes of
    the tensors in the order of their offsets.

    Args:
        tensor_of: the tensor to write under a name, of the original's type and shape.
    """
    header = safetensors_header(original)
    names = sorted((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    with original.open("rb") as source, out.open("wb") as sink:
        length = source.read(8)
        sink.write(length + source.read(int.from_bytes(length, "little")))
        for name in names:
            sink.write(tensor_of(name).contiguous().reshape(-1).view(torch.uint8).numpy().data)
