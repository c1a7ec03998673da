"""Does a run of two processes, by whatever strategy, go on to the bit? And what does each process send?

    PYTHONPATH=. python benchmarks/spread.py [--only WORD …]

Each job is run undisturbed, and kept; of what was kept, all after the third step is taken away, and it is gone on with.
FSDP2 and ZeRO run on CPU processes that pose as accelerators (`tests/training/posing.py`); ZeRO where DeepSpeed is
installed. bf16 is computed on the CPU, too: Transformers' check for a GPU is told that there is one.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

LORA, BF16 = {"lora_rank": 4}, {"precision": "bf16"}
WHOLE_GROUPS = {"batch_size": 4}
# A job of `kept_jobs`, settings beside its own, and strategies.
JOBS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("sft", {}, ("ddp", "fsdp", "zero2", "zero3")),
    ("sft", BF16, ("fsdp", "zero2", "zero3")),
    ("sft", LORA, ("fsdp", "zero2", "zero3")),
    ("proximal", {}, ("zero2",)),
    ("grpo", {}, ("fsdp", "zero2", "zero3")),
    ("grpo kl", WHOLE_GROUPS, ("fsdp", "zero2", "zero3")),
    ("reinforce_pp", WHOLE_GROUPS | {"kl": 0.0}, ("fsdp", "zero3")),
    ("hints", WHOLE_GROUPS, ("zero3",)),
    ("distill", {}, ("fsdp", "zero3")),
    ("dpo", {}, ("fsdp", "zero2", "zero3")),
    ("reward_model", {}, ("fsdp", "zero3")),
    ("reward_model", LORA, ("fsdp",)),
    ("process_reward_model", {}, ("fsdp", "zero2")),
]
LEFT = 3  # steps


def main() -> None:
    """Run every job by every strategy, and print the table."""
    import transformers.training_args as checked

    from posttrain.training import launch
    from tests.training.kept_jobs import made
    from tests.training.posing import pose_as_accelerators
    from tests.training.spread_runs import forked

    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[""], help="jobs whose name has one of these words")
    words = parser.parse_args().only
    pose_as_accelerators()
    launch.start = forked
    checked.is_torch_bf16_gpu_available = lambda: True
    print(f"{'job':50} {'from':>4} {'to the bit':>10} {'curves':>6}  KiB sent by each process", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        made(home)
        for number, (job, more, strategies) in enumerate(JOBS):
            for strategy in strategies:
                name = " ".join([job, *(f"{key}={value}" for key, value in more.items()), strategy])
                lacks = strategy.startswith("zero") and not importlib.util.find_spec("deepspeed")
                if any(word in name for word in words) and not lacks:
                    row(name, job, more | {"strategy": strategy}, home, home / f"{number}-{strategy}")


def row(name: str, job_name: str, more: dict[str, Any], home: Path, place: Path) -> None:
    """One line of the table."""
    from tests.training.jobs import record, run, same_weights
    from tests.training.kept_jobs import job
    from tests.training.spread_runs import newest

    stage, settings, parents = job(home, job_name)
    settings |= {"processes": 2, "batch_size": max(1, settings["batch_size"] // 2)} | more
    alone = run(stage, place / "alone", settings, **parents)
    settings |= {"checkpoint_uri": str(place / "kept"), "checkpoint_steps": 1, "keep_last": 99}
    run(stage, place / "kept_one", settings, **parents)
    for commit in place.glob("kept/*/commits/*.json"):
        if int(commit.stem) > LEFT:
            commit.unlink()
    files = newest(place / "kept").files
    again = run(stage, place / "again", settings | {"resume": "must"}, **parents)
    sizes = [sum(ref.size for file, ref in files.items() if file.startswith(f"rank-0000{rank}")) for rank in (0, 1)]
    shared = sum(ref.size for file, ref in files.items() if not file.startswith("rank-"))
    sent = f"{sizes[0] / 1024:.0f} and {sizes[1] / 1024:.0f}, {shared / 1024:.0f} shared"
    went_on = record(again).counts["resumed_from_step"]
    curves = record(alone).curves == record(again).curves
    print(f"{name:50} {went_on:4} {same_weights(alone, again)!s:>10} {curves!s:>6}  {sent}", flush=True)


if __name__ == "__main__":
    main()
