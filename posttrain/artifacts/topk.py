"""A teacher's stored distributions: beside a trajectories file, the k likeliest tokens at every completion token.

Two plain NumPy arrays of shape [N, k], N tokens of all rows one after the other: they are written as they come and
mapped, not read, so neither the stage that makes them nor the one that learns from them holds them in memory. Each
trajectory row says in `teacher_tokens` how many of them are its own. A token costs 6k bytes, 384 at k = 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import DataError

IDS_FILE = "teacher_ids.npy"  # int32
LOGPROBS_FILE = "teacher_logprobs.npy"  # float16: relative error of a probability below 1% down to e^-16
COLUMN = "teacher_tokens"
BYTES = 6  # of one token id with its log-probability

Mapped = np.memmap[Any, np.dtype[Any]]


class TopK:
    """Stored distributions by row, mapped from disk.

    Raises:
        DataError: the files are missing, or hold another number of tokens than the rows say.
    """

    def __init__(self, directory: Path, tokens: Sequence[int]) -> None:
        for name in (IDS_FILE, LOGPROBS_FILE):
            if not (directory / name).is_file():
                raise DataError(f"{directory}: no {name} in it; make it with the stage teacher_logits")
        self._ids: NDArray[Any] = np.load(directory / IDS_FILE, mmap_mode="r")
        self._logprobs: NDArray[Any] = np.load(directory / LOGPROBS_FILE, mmap_mode="r")
        self._start = offsets(tokens)
        for array in (self._ids, self._logprobs):
            if len(array) != self._start[-1]:
                raise DataError(f"{directory}: {len(array)} stored tokens where the rows have {self._start[-1]}")

    def __getitem__(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Ids and log-probabilities of a row's completion tokens, [T, k] each."""
        own = slice(self._start[row], self._start[row + 1])
        return np.array(self._ids[own]), self._logprobs[own].astype(np.float32)


def create(directory: Path, tokens: Sequence[int], k: int) -> tuple[Mapped, Mapped]:
    """Empty arrays on disk for so many tokens a row, to be filled in any order: ids and log-probabilities."""
    shape = (int(sum(tokens)), k)
    ids = np.lib.format.open_memmap(directory / IDS_FILE, "w+", np.int32, shape)
    return ids, np.lib.format.open_memmap(directory / LOGPROBS_FILE, "w+", np.float16, shape)


def offsets(tokens: Sequence[int]) -> NDArray[np.int64]:
    """Where each row's tokens start, and at last where all end. Shape (rows + 1,)."""
    return np.concatenate([[0], np.cumsum(np.asarray(tokens, dtype=np.int64))])


def probabilities(logprobs: NDArray[Any]) -> NDArray[np.float32]:
    """What the stored log-probabilities stand for, in float32."""
    return np.exp(np.asarray(logprobs, dtype=np.float32))
