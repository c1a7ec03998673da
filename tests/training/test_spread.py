"""Runs of several processes are kept and gone on with: by as many exactly, by others where the strategy can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def became(home: Path, strategy: str) -> tuple[dict[str, Any], str]:
    """What `spread_runs` found, and what its runs said."""
    command = [sys.executable, "-m", "tests.training.spread_runs", str(home), strategy]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def went_on_exactly(found: dict[str, Any], said: str) -> None:
    assert found["from"] >= 1
    assert found["exact"] and found["curves"] and found["exported"] and found["after damage"]
    assert "checkpoint 7 is damaged: rank-00001." in said and "trying the one before it" in said


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_it_goes_on_exactly_and_in_other_processes_not_to_the_bit(tmp_path: Path, strategy: str) -> None:
    found, said = became(tmp_path, strategy)
    went_on_exactly(found, said)
    assert "with 3 processes instead of 2: not to the bit" in said
    assert found["apart"] < 1e-3 * found["moved"]
    spread = {"rank-00000.model.safetensors", "rank-00001.model.safetensors", "rank-00001.optimizer.safetensors"}
    assert spread & set(found["files"]) == (spread if strategy == "fsdp" else set())
    assert ("model.safetensors" in found["files"]) == (strategy == "ddp")


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_zero_goes_on_exactly_and_refuses_other_processes(tmp_path: Path, strategy: str) -> None:
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    found, said = became(tmp_path, strategy)
    went_on_exactly(found, said)
    assert f"3 processes instead of 2: with strategy={strategy} each holds a partition of DeepSp" in found["refused"]
    assert ("model.safetensors" in found["files"]) == (strategy == "zero2")
