"""A group of processes whose agent is told to end stops at one step, keeps it, and goes on from there exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from posttrain.errors import PREEMPTED
from tests.training.jobs import record, run, same_weights
from tests.training.kept_jobs import job, made

ROOT = Path(__file__).parents[2]
RUN = """
import json, sys
from pathlib import Path
from posttrain.errors import PosttrainError
from tests.training.jobs import run
stage, settings, parents, out = json.loads(sys.argv[1])
try:
    run(stage, Path(out), settings, **{role: Path(path) for role, path in parents.items()})
except PosttrainError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def test_a_group_stops_at_one_step_and_goes_on(tmp_path: Path) -> None:
    made(tmp_path)
    stage, settings, parents = job(tmp_path, "grpo")
    settings |= {"processes": 2, "batch_size": 4, "max_steps": 60, "logging_steps": 20, "schedule": "constant"}
    alone = run(stage, tmp_path / "alone", settings, **parents)
    settings |= {"checkpoint_uri": str(tmp_path / "kept"), "checkpoint_steps": 4}
    code, said = told_to_end(tmp_path, [stage, settings, {k: str(v) for k, v in parents.items()}])
    assert code == PREEMPTED, said
    last = max(int(file.stem) for file in tmp_path.glob("kept/*/commits/*.json"))
    assert f"told to end after step {last} of 60" in said
    again = run(stage, tmp_path / "again", settings | {"resume": "must"}, **parents)
    assert same_weights(alone, again)
    once, twice = record(alone), record(again)
    assert (once.curves, once.trace, twice.counts["resumed_from_step"]) == (twice.curves, twice.trace, last)
    assert {name: twice.counts[name] for name in once.counts} == once.counts


def told_to_end(folder: Path, what: list[Any]) -> tuple[int, str]:
    """Run a stage in a process of its own, and tell it to end as soon as something is kept."""
    log = folder / "log"
    with log.open("w") as stderr:
        agent = subprocess.Popen(
            [sys.executable, "-c", RUN, json.dumps([*what, str(folder / "out")])],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stderr=stderr,
        )
        while agent.poll() is None and not any(folder.glob("kept/*/commits/*.json")):
            time.sleep(0.02)
        agent.send_signal(signal.SIGTERM)
        return agent.wait(), log.read_text()
