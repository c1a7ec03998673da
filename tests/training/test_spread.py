"""Runs of several processes are kept and gone on with: by as many exactly, by others where the strategy can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.training.parts import Part, Stored
from posttrain.training.snapshot import HostCopies

ROOT = Path(__file__).parents[2]


def became(home: Path, *strategies: str) -> tuple[dict[str, dict[str, Any]], str]:
    """What `spread_runs` found with each strategy, and what its runs said."""
    command = [sys.executable, "-m", "tests.training.spread_runs", str(home), *strategies]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_parts_are_read_back_in_other_cuts(tmp_path: Path) -> None:
    whole = torch.arange(21, dtype=torch.bfloat16)
    for rank, (first, last) in enumerate(((0, 12), (12, 21), (21, 21))):
        held = {"w": Part(whole[first:last], [7, 3], first), "scale": torch.tensor(rank)}
        (tmp_path / str(rank)).write_bytes(b"".join(HostCopies().copy({"f": held})["f"]))
    stored = Stored([tmp_path / str(rank) for rank in range(3)])
    assert set(stored) == {"w", "scale"} and stored["scale"] == 0
    for first, last in ((0, 9), (9, 18), (18, 21), (21, 21), (0, 21)):
        part = Part(torch.zeros(last - first, dtype=torch.bfloat16), [7, 3], first)
        stored.fill("w", part)
        assert torch.equal(part.local, whole[first:last])
    with pytest.raises(ValueError, match="w: 9 elements from 0 on are in no file"):
        Stored([tmp_path / "0"]).fill("w", Part(torch.zeros(21, dtype=torch.bfloat16), [7, 3], 0))


def went_on_exactly(found: dict[str, Any], said: str) -> None:
    assert found["from"] >= 1
    assert found["exact"] and found["curves"] and found["exported"] and found["after damage"]
    assert said.count("checkpoint 7 is damaged: rank-00001.") == said.count("trying the one before it") == 2


def test_it_goes_on_exactly_and_in_other_processes_not_to_the_bit(tmp_path: Path) -> None:
    both, said = became(tmp_path, "ddp", "fsdp")
    for strategy, found in both.items():
        went_on_exactly(found, said)
        assert found["apart"] < 1e-3 * found["moved"], strategy
    assert said.count("with 3 processes instead of 2: not to the bit") == 2
    parts = {f"rank-0000{rank}.{file}.safetensors" for rank in (0, 1) for file in ("model", "optimizer")}
    assert set(both["fsdp"]["files"]) > parts and "model.safetensors" not in both["fsdp"]["files"]
    assert set(both["ddp"]["files"]) > {"model.safetensors", "optimizer.safetensors"}


def test_zero_goes_on_exactly_and_refuses_other_processes(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    both, said = became(tmp_path, "zero2", "zero3")
    for strategy, found in both.items():
        went_on_exactly(found, said)
        assert f"3 processes instead of 2: with strategy={strategy} each holds a partition" in found["refused"]
        assert ("model.safetensors" in found["files"]) == (strategy == "zero2")
