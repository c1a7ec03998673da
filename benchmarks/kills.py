"""Kills training runs at random and at chosen moments until they are done: `make faults`.

    PYTHONPATH=. python benchmarks/kills.py [--kills 36] [--jobs sft,grpo,distill] [--stores directory,s3] [--seed 0]

The kills of a job are shared out over the stores: a directory, and versitygw's S3 on loopback. Half of the moments are
drawn by the clock over the whole run, half are points within a save, a commit, a resume or the end
(`tests/faults/killing.py`). Fails if a run ends with other weights than an undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.s3 import BUCKET, versitygw
from tests.training.kept_jobs import made

ROOT = Path(__file__).parent.parent
Lines = list[dict[str, Any]]


@contextmanager
def store_in(folder: Path, kind: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Where checkpoints go, and the environment that reaching it needs."""
    if kind == "directory":
        yield str(folder / "kept"), {}
        return
    running = versitygw(folder)
    if not running:
        sys.exit("s3 needs versitygw, or go to build it")
    with running as server:
        server.client.create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}/kept", server.environment


def told(home: Path, jobs: str, place: Path, uri: str, seed: int, kills: int, reach: dict[str, str]) -> Lines:
    """What `tests.faults.killing` says, line by line."""
    command = [sys.executable, "-m", "tests.faults.killing", str(home), jobs, str(place), uri, str(seed), str(kills)]
    running = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | reach,
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
    parser.add_argument("--stores", default="directory,s3")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    stores = given.stores.split(",")
    unequal = 0
    with tempfile.TemporaryDirectory(prefix="posttrain-kills-") as scratch:
        made(Path(scratch) / "home")
        for number, kind in enumerate(stores):
            folder = Path(scratch) / kind
            folder.mkdir()
            kills = (given.kills + number) // len(stores)
            with store_in(folder, kind) as (uri, reach):
                print(f"{kind}:")
                lines = told(
                    Path(scratch) / "home", given.jobs, folder / "place", uri, given.seed + number, kills, reach
                )
            unequal += shown(lines)
    sys.exit(bool(unequal))


def shown(lines: Lines) -> int:
    """Print what was killed when and what came of it; returns how many runs ended with other weights."""
    print(f"{'stage':<10} {'killed':<28} {'began at':>8} {'step':>5} {'lost':>5}  equal")
    unequal, waiting, alone = 0, Lines(), ""
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
    return unequal


if __name__ == "__main__":
    main()
