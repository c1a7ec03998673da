"""What keeping a run costs it: the time that training waits, the whole run's slowdown, and memory.

    PYTHONPATH=. python benchmarks/stall.py [--rounds 3] [--steps 400] [--seconds 20]

Trains a policy whose state (weights and optimizer) is 200 MB, with and without checkpoints, in turn, each in a process
of its own. On a machine with other work the CPU time that a save takes from training says more than the wait.
Bars: training waits 0.5 % of its time or less; peak memory grows by the state once, or less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

SIZES = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
}


def one(folder: Path, steps: int, seconds: float) -> dict[str, Any]:
    """Train in this process; `seconds` = 0 keeps nothing."""
    import torch
    import transformers

    from posttrain.training.saving import Saver
    from tests.training.jobs import record, run

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    found: dict[str, Any] = {"waited": 0.0, "busy": 0.0, "last": 0.0}
    loop, finish, between = transformers.Trainer._inner_training_loop, Saver.finish, Saver.between_steps

    def timed_loop(self: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.monotonic()
        result = loop(self, *args, **kwargs)
        found["trained"] = time.monotonic() - start
        return result

    def timed_finish(self: Any) -> None:
        start = time.monotonic()
        finish(self)
        found.update(waited=self.waited, last=time.monotonic() - start)

    def timed_between(self: Any, trainer: Any) -> None:
        start = time.thread_time()
        between(self, trainer)
        found["busy"] += time.thread_time() - start

    transformers.Trainer._inner_training_loop = timed_loop
    Saver.between_steps = timed_between  # type: ignore[method-assign]
    Saver.finish = timed_finish  # type: ignore[method-assign]
    settings: dict[str, Any] = {"max_steps": steps, "batch_size": 2, "learning_rate": 1e-4, "max_length": 128}
    if seconds:
        settings |= {"checkpoint_uri": str(folder / "kept"), "checkpoint_seconds": seconds}
    made = record(run("sft", folder / "out", settings, init=folder / "init", data=folder / "data"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    manifests = sorted(folder.glob("kept/*/commits/*.json"))
    size = sum(file["size"] for file in json.loads(manifests[-1].read_text())["files"].values()) if manifests else 0
    return found | {"peak": peak, "state": size, "saves": made.counts.get("checkpoints", 0)}


def prepare(folder: Path) -> None:
    from tests.tiny import tiny_policy
    from tests.training.jobs import prepared, run

    model = tiny_policy(folder / "model", "llama", **SIZES)
    run("base", folder / "init", {"uri": str(model)})
    rows = [{"prompt": f"{n}: ", "completion": "abcdefghij" * 6} for n in range(64)]
    prepared(folder / "data", rows, "trajectories")


def measured(steps: int, seconds: float) -> dict[str, Any]:
    """`one` in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="posttrain-stall-") as folder:
        command = [sys.executable, __file__, "--one", folder, "--steps", str(steps), "--seconds", str(seconds)]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            sys.exit(ran.stderr)
        return dict(json.loads(ran.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        prepare(given.one)
        print(json.dumps(one(given.one, given.steps, given.seconds)))
        return
    heads = ("off s", "on s", "slowdown", "waits", "CPU s a save", "last wait s", "saves", "memory")
    print("  ".join(f"{head:>12}" for head in heads))
    rounds = []
    for number in range(given.rounds):
        order = (0.0, given.seconds) if number % 2 == 0 else (given.seconds, 0.0)
        by = {seconds: measured(given.steps, seconds) for seconds in order}
        off, on = by[0.0], by[given.seconds]
        row = {
            "slowdown": on["trained"] / off["trained"] - 1,
            "waits": on["waited"] / on["trained"],
            "busy": on["busy"] / on["saves"],
            "memory": (on["peak"] - off["peak"]) / on["state"],
        }
        rounds.append(row)
        cells = [f"{off['trained']:.1f}", f"{on['trained']:.1f}", f"{row['slowdown']:.2%}", f"{row['waits']:.3%}"]
        cells += [f"{row['busy']:.3f}", f"{on['last']:.2f}", str(on["saves"]), f"{row['memory']:.2f}"]
        print("  ".join(f"{cell:>12}" for cell in cells), flush=True)
    state = on["state"] / 1e6
    middle = {name: median(row[name] for row in rounds) for name in rounds[0]}
    print(f"state {state:.0f} MB; median slowdown {middle['slowdown']:.2%}, waits {middle['waits']:.3%} "
              f"({middle['busy']:.3f} s of its CPU a save), "
          f"memory {middle['memory']:.2f} × the state")  # fmt: skip


if __name__ == "__main__":
    main()
