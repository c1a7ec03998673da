"""Distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from posttrain.generation.decoding import Decoding
from posttrain.generation.transformers import load_policy, sample
from tests.effects.effect import Measured, effect
from tests.training.jobs import SUMS, base, prepared, record, run


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


@effect("on_policy_distillation", "KL(student ‖ teacher) on the student's samples, nats", margin=-0.5)
def on_policy_distillation_brings_the_student_to_its_teacher(home: Path, seed: int) -> Measured:
    student, teacher = (base(home / name, "qwen2", seed=seed + n) for n, name in enumerate(("student", "teacher"), 1))
    problems = prepared(home / "problems", SUMS, "problems")
    settings: dict[str, Any] = {"max_steps": 30, "batch_size": 16, "learning_rate": 3e-3, "max_new_tokens": 4}
    taught = run("distill", home / "taught", settings, init=student, teacher=teacher, problems=problems)
    prompts = [row["prompt"] for row in SUMS]
    before, after = (divergence(policy, teacher, prompts) for policy in (student, taught))
    return Measured(before, after, record(taught))
