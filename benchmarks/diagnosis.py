"""Time and memory of the stage diagnose on a stored evaluation of a million problems.

    PYTHONPATH=. python benchmarks/diagnosis.py [--problems 1000000]

Problems have rates from a Beta distribution, 64 samples, four slices, three distinct answers; an earlier evaluation of
the same problems, before a stage that changed every rate a little, is paired with it. Writing them is not measured: the
stage runs in a process of its own, whose largest resident size is what the kernel says.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from posttrain.components.catalogue import load_stage

from posttrain.artifacts.evaluation import EVALUATION_FILE, _schema
from posttrain.diagnosis.diagnosis import read_diagnosis
from posttrain.stage import Work, execute

SAMPLES = 64
SLICES = np.array(["algebra", "code", "geometry", "logic"])
BATCH = 50_000


def write_evaluation(file: Path, problems: int, seed: int) -> None:
    """A made-up evaluation, batch by batch."""
    truth, chance = np.random.default_rng(0), np.random.default_rng(seed)
    with pq.ParquetWriter(file, _schema()) as writer:
        for start in range(0, problems, BATCH):
            count = min(BATCH, problems - start)
            rate_M = np.clip(truth.beta(0.4, 0.8, count) + chance.normal(0, 0.02, count), 0, 1)
            right_M = chance.binomial(SAMPLES, rate_M)
            writer.write_batch(_batch(start, right_M, chance))


def _batch(start: int, right_M: np.ndarray, chance: np.random.Generator) -> pa.RecordBatch:
    count = len(right_M)
    scores_MN = (np.arange(SAMPLES) < right_M[:, None]).astype(float)
    wrong_M = SAMPLES - right_M
    first_M = wrong_M // 2
    counts_M3 = np.column_stack([right_M, first_M, wrong_M - first_M])
    offsets, wide = np.arange(count + 1, dtype=np.int32), np.int32(SAMPLES)
    lists = {
        "scores": pa.ListArray.from_arrays(offsets * wide, pa.array(scores_MN.ravel())),
        "tokens": pa.ListArray.from_arrays(offsets * wide, pa.array(chance.integers(10, 400, count * SAMPLES))),
        "logprobs": pa.ListArray.from_arrays(offsets * wide, pa.array(-chance.gamma(20, 2, count * SAMPLES))),
        "answers": pa.ListArray.from_arrays(offsets * np.int32(3), pa.array(["a", "b", "c"] * count)),
        "answer_counts": pa.ListArray.from_arrays(offsets * np.int32(3), pa.array(counts_M3.ravel())),
        "answer_right": pa.ListArray.from_arrays(offsets * np.int32(3), pa.array([True, False, False] * count)),
    }
    plain = {
        "problem_id": pa.array([f"p{start + n:08d}" for n in range(count)]),
        "slice": pa.array(SLICES[(start + np.arange(count)) % len(SLICES)]),
        "truncated": pa.array(np.zeros(count, dtype=np.int64)),
        "swapped": pa.array(np.full(count, 4)),
        "swapped_accepted": pa.array(np.zeros(count, dtype=np.int64)),
    }
    columns = lists | plain
    return pa.RecordBatch.from_arrays([columns[f.name].cast(f.type) for f in _schema()], schema=_schema())


def artifact(out: Path, policy: Path, data: Path, problems: int, seed: int) -> Path:
    """The evaluation as an artifact."""

    def run(chosen: Any, parents: Any, directory: Path, progress: Any) -> Work:
        write_evaluation(directory / EVALUATION_FILE, problems, seed)
        sampler = parents.one("policy")
        return Work(facts={"policy": sampler.digest, "policy_name": out.name, "samples": SAMPLES})

    stage = replace(load_stage("evaluate"), run=run, check=lambda settings, parents: None)
    execute(stage, {"policy": [policy], "problems": [data]}, {"samples": SAMPLES}, out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", type=int, default=1_000_000)
    parser.add_argument("--stage", type=Path, help="run the stage in this folder: what the benchmark starts")
    chosen = parser.parse_args()
    if chosen.stage:
        home = chosen.stage
        started = time.monotonic()
        parents = {"evaluation": [home / "after"], "before": [home / "before"]}
        execute(load_stage("diagnose"), parents, {}, home / "diagnosis", home / "diagnosis.html")
        seconds, peak = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        found = read_diagnosis(home / "diagnosis")
        signals = len(found.signals["all"])
        print(f"{found.problems} problems, {signals} signals: {seconds:.1f} s, {peak:.2f} GiB at most")
        return
    # Not at the top: the measured process needs no torch.
    from tests.made import based, prepared, problem
    from tests.tiny import tiny_policy

    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        tiny_policy(home / "model", "llama")
        tiny_policy(home / "other", "llama", seed=1)
        data = prepared(home / "problems", [problem(n) for n in range(8)])
        for name, model, seed in (("before", "model", 1), ("after", "other", 2)):
            artifact(home / name, based(home / f"{name}_policy", home / model), data, chosen.problems, seed)
        subprocess.run([sys.executable, __file__, "--stage", str(home)], check=True)


if __name__ == "__main__":
    main()
