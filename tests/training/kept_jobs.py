"""Small training runs of every kind, for the tests and the benchmark that end them and start them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.training.jobs import SUMS, answered, base, prepared, run

# Four batches to an epoch, so that a run comes into a second pass over its data.
SETTINGS: dict[str, Any] = {
    "max_steps": 6,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "seed": 7,
    "logging_steps": 4,
}
# Sampled and trained on twice, in two parts: the run ends within a batch that is to be used again.
REUSED: dict[str, Any] = {
    "batch_size": 8,
    "trainer_args": {"steps_per_generation": 2, "num_iterations": 2},
    "max_staleness": 3,
}
RL: dict[str, Any] = {"group_size": 4, "max_new_tokens": 2}
DIGITS = [row | {"reference": [*"0123456789"]} for row in SUMS]
PAIRS = [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": r["completion"] + "!"} for r in answered(SUMS)]
STEPS = [
    {"prompt": row["prompt"], "completions": ["1", "a"], "labels": [1.0, 0.0], "problem_id": str(number)}
    for number, row in enumerate(SUMS)
]

# name → stage, settings beside SETTINGS, role → parent as `made` names them
JOBS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "sft": ("sft", {"accumulation": 2}, {"data": "data"}),
    "sft lora": ("sft", {"lora_rank": 4}, {"data": "data"}),
    "sft packed": ("sft", {"packing": True, "max_length": 16, "batch_size": 1}, {"data": "data"}),
    "proximal": ("sft", {"method": "proximal", "refresh": 4}, {"data": "data"}),
    "grpo": ("rl", RL | REUSED, {"problems": "problems"}),
    "grpo kl": ("rl", RL | {"kl": 0.1, "reference_reset_steps": 2}, {"problems": "problems"}),
    "dapo": ("rl", RL | {"method": "dapo", "max_new_tokens": 1}, {"problems": "problems"}),
    "rloo": ("rl", RL | REUSED | {"method": "rloo"}, {"problems": "problems"}),
    "reinforce_pp": ("rl", RL | {"method": "reinforce_pp", "kl": 0.1, "lora_rank": 4}, {"problems": "problems"}),
    "hints": ("rl", RL | {"accumulation": 2}, {"problems": "problems", "hints": "data"}),
    "distill": ("distill", {"max_new_tokens": 4, "accumulation": 2}, {"teacher": "teacher", "problems": "problems"}),
    "gkd": ("distill", {"method": "gkd", "max_new_tokens": 4}, {"teacher": "teacher", "data": "data"}),
    "self": (
        "distill",
        {"method": "self_distillation", "max_new_tokens": 3, "teacher_update": 0.5},
        {"data": "data"},
    ),
    "logits": ("distill", {"method": "logit_distillation", "max_length": 64}, {"data": "logits"}),
    "dpo": ("preference", {}, {"data": "pairs"}),
    "kto": ("preference", {"method": "kto"}, {"data": "pairs"}),
    "orpo": ("preference", {"method": "orpo"}, {"data": "pairs"}),
    "reward_model": ("reward_model", {"held_out": 0.0}, {"data": "pairs"}),
    "process_reward_model": ("process_reward_model", {}, {"data": "steps"}),
}


def made(home: Path) -> None:
    """Every parent that a job takes, in a directory of its name."""
    for seed, name in enumerate(("init", "teacher")):
        base(home / name, "llama", seed=seed)
    prepared(home / "data", answered(SUMS), "trajectories")
    prepared(home / "problems", DIGITS, "problems")
    prepared(home / "pairs", PAIRS, "trajectories")
    prepared(home / "steps", STEPS, "trajectories")
    run("teacher_logits", home / "logits", {"max_length": 64}, teacher=home / "teacher", data=home / "data")


def job(home: Path, name: str) -> tuple[str, dict[str, Any], dict[str, Path]]:
    """A job's stage, settings and parents."""
    stage, settings, parents = JOBS[name]
    return stage, SETTINGS | settings, {"init": home / "init"} | {role: home / each for role, each in parents.items()}
