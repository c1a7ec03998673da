"""What share of GRPO's groups will carry no gradient? Predicted from one evaluation, and as GRPO logs it.

    PYTHONPATH=. python benchmarks/zero_gradient.py [--problems 128] [--passes 4]

A prediction is 1 - (pass@G - pass^G), estimated from the 64 samples a problem of an evaluation. What GRPO logs is
`frac_reward_zero_std` of the stage rl, on the same problems and the same policy: at a learning rate of 1e-12 the
weights stay what they are, so every group of several passes over the problems is a fresh sample of the same quantity.
Pairs are six policies, each of another world, on a problem set each, and two of them on harder or mixed sets as well.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from posttrain.components.catalogue import load_stage
from transformers.utils import logging

from posttrain.artifacts.evaluation import read_evaluation
from posttrain.diagnosis.intervals import Interval
from posttrain.diagnosis.signals import informative_by_group
from posttrain.stage import execute
from posttrain.worlds.bottlenecks import build
from posttrain.worlds.countdown import EASY, HARD

GROUP = 16
SAMPLES = 64
# World, which of its policies, which slices of its training problems.
PAIRS = [
    ("headroom", "base", (EASY,)),
    ("mixed", "base", (EASY, HARD)),
    ("mixed", "base", (HARD,)),
    ("over_sharpened", "base", (EASY,)),
    ("over_sharpened", "original", (EASY,)),
    ("forgetting_prone", "base", (EASY,)),
    ("strong_teacher", "base", (EASY, HARD)),
    ("strong_teacher", "teacher", (EASY, HARD)),
    ("strong_teacher", "teacher", (HARD,)),
]


@dataclass(frozen=True)
class Pair:
    """What was predicted and what was logged."""

    name: str
    predicted: Interval
    logged: float
    groups: int

    @property
    def error(self) -> float:
        return self.predicted.estimate - self.logged


def measured(home: Path, problems: int, passes: int) -> Iterator[Pair]:
    """Every pair."""
    for world, policy, slices in PAIRS:
        source = home / world
        if not source.exists():
            build(world, source, seed=0)
        name = f"{world} {policy} on {' and '.join(slices)}"
        work = home / name.replace(" ", "_")
        rows = [json.loads(line) for line in (source / "problems.jsonl").read_text().splitlines()]
        each = problems // len(slices)
        chosen = [row for part in slices for row in [r for r in rows if r["slice"] == part][:each]]
        work.mkdir()
        (work / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
        yield _pair(name, source / policy, work, len(chosen), passes)


def _pair(name: str, policy: Path, work: Path, problems: int, passes: int) -> Pair:
    def run(stage: str, parents: dict[str, Path], **settings: Any) -> Path:
        out = work / f"{stage}-{len(list(work.iterdir()))}"
        execute(load_stage(stage), {role: [path] for role, path in parents.items()}, settings, out)
        return out

    base = run("base", {}, uri=str(policy))
    data = run("prepare", {}, uri=str(work / "problems.jsonl"), kind="problems")
    decoding = {"max_new_tokens": 6, "seed": 0}
    evaluation = read_evaluation(
        run("evaluate", {"policy": base, "problems": data}, samples=SAMPLES, batch_rows=2048, **decoding)
    )
    informative = informative_by_group(evaluation)[GROUP]
    predicted = Interval(1 - informative.estimate, 1 - informative.high, 1 - informative.low)
    groups_a_step = 16
    trained = run(
        "rl",
        {"init": base, "problems": data},
        method="dapo",
        dynamic_sampling="never",
        group_size=GROUP,
        batch_size=GROUP * groups_a_step,
        max_steps=passes * problems // groups_a_step,
        learning_rate=1e-12,
        max_new_tokens=6,
        seed=1,
    )
    curves = json.loads((trained / "posttrain.json").read_text())["curves"]
    shares = [value for _, value in curves["frac_reward_zero_std"]]
    return Pair(name, predicted, float(np.mean(shares)), passes * problems)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", type=int, default=128)
    parser.add_argument("--passes", type=int, default=4)
    chosen = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    pairs = []
    with tempfile.TemporaryDirectory() as scratch:
        for pair in measured(Path(scratch), chosen.problems, chosen.passes):
            pairs.append(pair)
            told = f"predicted {pair.predicted} logged {pair.logged:.3f} in {pair.groups} groups"
            print(f"{pair.name:45s} {told} error {pair.error:+.3f}", flush=True)
    worst = max(pairs, key=lambda pair: abs(pair.error))
    print(f"{len(pairs)} pairs, n = {SAMPLES}, G = {GROUP}; worst {worst.error:+.3f} ({worst.name})")


if __name__ == "__main__":
    main()
