"""A run that is killed by SIGKILL, whenever, ends with the weights of one that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.training.kept_jobs import made

ROOT = Path(__file__).parents[2]
JOBS = ("sft", "grpo", "distill")


def test_killed_runs_end_as_undisturbed_ones(tmp_path: Path) -> None:
    made(tmp_path / "home")
    command = [sys.executable, "-m", "tests.faults.killing", str(tmp_path / "home"), ",".join(JOBS)]
    ran = subprocess.run(
        [*command, str(tmp_path / "place"), str(tmp_path / "kept"), "1", "4"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    for name in JOBS:
        mine = [each for each in told if each["job"] == name]
        alone = {each["alone"] for each in mine if "alone" in each}
        assert {each["ended"] for each in mine if "ended" in each} == alone
        assert sum("moment" in each for each in mine) == 4
        assert any(each["began"] for each in mine if "moment" in each) or len(mine) > 6, "none was resumed"
