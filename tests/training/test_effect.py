"""Training does what it is for: measured on policies and data small enough that chance cannot explain it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from posttrain.generation.decoding import Decoding
from posttrain.generation.transformers import load_policy, sample
from tests.training.jobs import SUMS, answered, base, prepared, record, run

LETTERS = [
    {"id": "x", "prompt": "x:", "verifier": "exact", "reference": "a"},
    {"id": "y", "prompt": "y:", "verifier": "exact", "reference": "b"},
]


def greedy(policy: Path, prompts: list[str]) -> list[str]:
    model, tokenizer = load_policy(policy)
    sampled = sample(model, tokenizer, prompts, Decoding(samples=1, max_new_tokens=4, temperature=0))
    return [completions[0].text for completions in sampled]


def test_sft_teaches_the_demonstrated_answers(tmp_path: Path) -> None:
    demos = answered(SUMS)
    prompts, answers = [row["prompt"] for row in demos], [row["completion"] for row in demos]
    init = base(tmp_path / "init", "llama")
    assert greedy(init, prompts) != answers
    settings = {"max_steps": 60, "batch_size": 16, "learning_rate": 1e-2, "logging_steps": 1}
    trained = run("sft", tmp_path / "sft", settings, init=init, data=prepared(tmp_path / "d", demos, "trajectories"))
    losses = [value for _, value in record(trained).curves["loss"]]
    assert losses[0] > 2, "nothing was known before"
    assert losses[-1] < 0.1
    assert greedy(trained, prompts) == answers


def mean_reward(home: Path, policy: Path, problems: Path) -> tuple[float, float]:
    """Mean reward over fresh samples, and its standard error."""
    settings = {"samples": 200, "max_new_tokens": 1, "seed": 5}
    sampled = run("rollout", home / f"{policy.name}-samples", settings, policy=policy, problems=problems)
    scored = run("verify", home / f"{policy.name}-scored", trajectories=sampled)
    mean = record(scored).metrics["mean_reward"]
    return mean, math.sqrt(mean * (1 - mean) / 400)


def test_rl_raises_the_reward(tmp_path: Path) -> None:
    init = base(tmp_path / "init", "llama", characters="abxy:")
    problems = prepared(tmp_path / "problems", LETTERS, "problems")
    settings = {
        "max_steps": 40,
        "batch_size": 32,
        "group_size": 16,
        "learning_rate": 3e-3,
        "max_new_tokens": 1,
        "logging_steps": 1,
    }
    trained = run("rl", tmp_path / "rl", settings, init=init, problems=problems)
    (before, error_before), (after, error_after) = (mean_reward(tmp_path, p, problems) for p in (init, trained))
    assert after - before > 5 * math.hypot(error_before, error_after)
    assert after > 0.9, "both prompts are answered, each by its own letter"
    assert record(trained).counts["rollouts"] == 40 * 32


def divergence(student: Path, teacher: Path, prompts: list[str]) -> float:
    """Mean KL(student ‖ teacher) over the next tokens of the student's own samples, from plain forwards."""
    (mine, tokenizer), (theirs, _) = load_policy(student), load_policy(teacher)
    total: list[torch.Tensor] = []
    sampled = sample(mine, tokenizer, prompts, Decoding(samples=8, max_new_tokens=4, seed=3))
    for prompt, completions in zip(prompts, sampled, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        for completion in completions:
            tokens = torch.tensor([ids + completion.tokens])
            with torch.no_grad():
                p, q = (model(tokens).logits[0, len(ids) - 1 : -1].log_softmax(-1) for model in (mine, theirs))
            total.append((p.exp() * (p - q)).sum(-1).mean())
    return float(torch.stack(total).mean())


def test_on_policy_distillation_brings_the_student_to_its_teacher(tmp_path: Path) -> None:
    student, teacher = (base(tmp_path / name, "qwen2", seed=seed) for name, seed in (("student", 1), ("teacher", 2)))
    problems = prepared(tmp_path / "problems", SUMS, "problems")
    settings: dict[str, Any] = {"max_steps": 30, "batch_size": 16, "learning_rate": 3e-3, "max_new_tokens": 4}
    taught = run("distill", tmp_path / "taught", settings, init=student, teacher=teacher, problems=problems)
    prompts = [row["prompt"] for row in SUMS]
    assert divergence(taught, teacher, prompts) < 0.5 * divergence(student, teacher, prompts)
