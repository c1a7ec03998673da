"""Kills training runs at random and at chosen moments until they are done: `make faults`.

    PYTHONPATH=. python benchmarks/kills.py [--kills 36] [--jobs sft,grpo,distill] [--seed 0]

Half of the moments are drawn by the clock over the whole run, half are points within a save, a commit, a resume or the
end (`tests/faults/killing.py`). Fails if a run ends with other weights than an undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.training.kept_jobs import made

ROOT = Path(__file__).parent.parent


def told(jobs: str, seed: int, kills: int, folder: Path) -> list[dict[str, Any]]:
    """What `tests.faults.killing` says, line by line."""
    made(folder / "home")
    command = [sys.executable, "-m", "tests.faults.killing", str(folder / "home"), jobs, str(folder / "place")]
    running = subprocess.Popen(
        [*command, str(seed), str(kills)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout
    lines = [json.loads(line) for line in running.stdout]
    if running.wait():
        sys.exit("a run ended with an error; it is above")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=36)
    parser.add_argument("--jobs", default="sft,grpo,distill")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="posttrain-kills-") as folder:
        lines = told(given.jobs, given.seed, given.kills, Path(folder))
    print(f"{'stage':<10} {'killed':<28} {'began at':>8} {'step':>5} {'lost':>5}  equal")
    unequal, waiting, alone = 0, [], ""
    for line in lines:
        alone = line.get("alone", alone)
        waiting += [line] if "moment" in line else []
        if "ended" in line:  # all kills until now were of the run that ended here
            equal = line["ended"] == alone
            unequal += not equal
            for kill in waiting:
                print(f"{kill['job']:<10} {kill['moment']:<28} {kill['began']:>8} {kill['done']:>5} {kill['lost']:>5}  "
                      f"{'yes' if equal else 'NO'}")  # fmt: skip
            waiting = []
    kills = [line for line in lines if "moment" in line]
    ends = sum("ended" in line for line in lines)
    lost = sorted(kill["lost"] for kill in kills)
    print(f"{len(kills)} kills, {ends} runs; steps lost: median {lost[len(lost) // 2]}, most {lost[-1]}; "
          f"runs that differ: {unequal}")  # fmt: skip
    sys.exit(bool(unequal))


if __name__ == "__main__":
    main()
