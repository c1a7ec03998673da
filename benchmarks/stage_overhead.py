"""What a training stage costs beside a bare TRL script of the same job: same data, seed and config, same weights.

    PYTHONPATH=. python benchmarks/stage_overhead.py [--job NAME …] [--pairs 5] [--seconds 30]

Each run is a process of its own, bare and stage in turn, so that a busy machine slows both alike; the figures are taken
within a pair. CPU seconds (user + system, with children) stand beside wall-clock ones for the same reason.

    loop    seconds inside `trainer.train()`, stage / bare
    added   seconds outside it (start-up, imports, checks, load, save, digests, record, page), stage - bare

The bars are 1.02 and 2 s, on medians. Steps are chosen so that the bare loop takes `--seconds`. A pair whose final
weights are not bit-identical is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.overhead_jobs import JOBS, Job, prepare, run_bare, run_stage

BARS = {"loop": 1.02, "added": 2.0}


@dataclass(frozen=True)
class Cost:
    """One run: wall-clock and CPU seconds of the loop and of the whole process."""

    loop: float
    loop_cpu: float
    total: float
    total_cpu: float


@contextmanager
def timed_loop(report: Path) -> Iterator[None]:
    """Times every `train()` of Transformers' trainer, the same way for both sides."""
    from transformers import Trainer

    plain = Trainer.train

    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        start, cpu = time.perf_counter(), cpu_seconds(resource.RUSAGE_SELF)
        result = plain(self, *args, **kwargs)
        spent = time.perf_counter() - start, cpu_seconds(resource.RUSAGE_SELF) - cpu
        report.write_text(json.dumps(spent))
        return result

    Trainer.train = train
    yield
    Trainer.train = plain


def cpu_seconds(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


SIDES: dict[str, Callable[[Job, int, Path, Path], None]] = {"bare": run_bare, "stage": run_stage}


def measure(side: str, job: str, steps: int, home: Path, out: Path, threads: int) -> Cost:
    """Run one side in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--side", side, "--job", job, "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    start, cpu = time.perf_counter(), cpu_seconds(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, "--home", str(home), "--out", str(out)], env=environment, capture_output=True, text=True
    )
    total, total_cpu = time.perf_counter() - start, cpu_seconds(resource.RUSAGE_CHILDREN) - cpu
    if done.returncode:
        raise RuntimeError(f"{side} {job} failed:\n{done.stderr}")
    loop, loop_cpu = json.loads(out.with_suffix(".loop").read_text())
    return Cost(loop, loop_cpu, total, total_cpu)


def compare(job: str, pairs: int, seconds: float, home: Path, threads: int) -> dict[str, Any]:
    """Measure pairs of runs; figures by name, one a pair."""
    trial_steps = JOBS[job].trial_steps
    trial = measure("bare", job, trial_steps, home, home / f"{job}-trial", threads)
    steps = max(trial_steps, round(trial_steps * seconds / trial.loop))
    runs: list[dict[str, Cost]] = []
    for number in range(pairs):
        outs = {side: home / f"{job}-{number}-{side}" for side in SIDES}
        runs.append({side: measure(side, job, steps, home, out, threads) for side, out in outs.items()})
        weights = {(out / "model.safetensors").read_bytes() for out in outs.values()}
        if len(weights) != 1:
            raise RuntimeError(f"{job}: the stage's weights differ from the bare script's")
        seen = ", ".join(f"{name} {value:.3f}" for name, value in figures(**runs[-1]).items())
        print(f"{job} {number + 1}/{pairs}: {seen} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)
    pairwise = [figures(**run) for run in runs]
    return {
        "job": job,
        "steps": steps,
        "runs": [{side: asdict(cost) for side, cost in run.items()} for run in runs],
        "figures": {name: [pair[name] for pair in pairwise] for name in pairwise[0]},
    }


def figures(bare: Cost, stage: Cost) -> dict[str, float]:
    """What a pair says."""
    return {
        "loop": stage.loop / bare.loop,
        "loop, CPU": stage.loop_cpu / bare.loop_cpu,
        "added": (stage.total - stage.loop) - (bare.total - bare.loop),
        "added, CPU": (stage.total_cpu - stage.loop_cpu) - (bare.total_cpu - bare.loop_cpu),
    }


def show(result: dict[str, Any]) -> None:
    bare = statistics.median(run["bare"]["loop"] for run in result["runs"])
    print(f"{result['job']}: {result['steps']} steps, bare loop {bare:.1f} s, {len(result['runs'])} pairs")
    print(f"  {'':12} {'median':>8} {'min':>8} {'max':>8}   bar")
    for name, values in result["figures"].items():
        bar = BARS[name.partition(",")[0]]
        verdict = "met" if statistics.median(values) <= bar else "missed"
        numbers = " ".join(f"{value:8.3f}" for value in (statistics.median(values), min(values), max(values)))
        print(f"  {name:12} {numbers}   {bar} {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", nargs="*", choices=JOBS, default=list(JOBS), help="only these jobs")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the bare training loop")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more only on an idle machine")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    for hidden, kind in (("--side", str), ("--steps", int), ("--home", Path), ("--out", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        with timed_loop(options.out.with_suffix(".loop")):
            SIDES[options.side](JOBS[options.job[0]], options.steps, options.home, options.out)
        return
    with tempfile.TemporaryDirectory() as directory:
        prepare(Path(directory))
        results = [
            compare(job, options.pairs, options.seconds, Path(directory), options.threads) for job in options.job
        ]
    for result in results:
        show(result)
    text = json.dumps({"load": os.getloadavg(), "threads": options.threads, "results": results})
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
