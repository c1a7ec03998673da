"""Distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from posttrain.generation.decoding import Decoding
from posttrain.generation.transformers import load_policy, sample
from tests.effects.effect import Measured, effect
from tests.effects.policies import exactly
from tests.training.jobs import SUMS, Row, base, prepared, record, run

QUICK: dict[str, Any] = {"max_steps": 30, "batch_size": 16, "learning_rate": 3e-3}


def divergence(student: Path, teacher: Path, prompts: list[str], forward: bool = False) -> float:
    """Mean KL(student ‖ teacher) over the next tokens of the student's own samples, from plain forwards.

    `forward` is KL(teacher ‖ student), over the teacher's samples.
    """
    (mine, tokenizer), (theirs, _) = load_policy(student), load_policy(teacher)
    first, second = (theirs, mine) if forward else (mine, theirs)
    total: list[torch.Tensor] = []
    sampled = sample(first, tokenizer, prompts, Decoding(samples=8, max_new_tokens=4, seed=3))
    for prompt, completions in zip(prompts, sampled, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        for completion in completions:
            tokens = torch.tensor([ids + completion.tokens])
            with torch.no_grad():
                p, q = (model(tokens).logits[0, len(ids) - 1 : -1].log_softmax(-1) for model in (first, second))
            total.append((p.exp() * (p - q)).sum(-1).mean())
    return float(torch.stack(total).mean())


PROMPTS = [row["prompt"] for row in SUMS]


def pair(home: Path, seed: int) -> tuple[Path, Path]:
    """A student and a teacher, random both."""
    student, teacher = (base(home / name, "qwen2", seed=seed + n) for n, name in enumerate(("student", "teacher"), 1))
    return student, teacher


def sampled_from(teacher: Path, home: Path, samples: int, seed: int) -> Path:
    """So many of the teacher's samples on every sum."""
    settings = {"samples": samples, "max_new_tokens": 4, "seed": seed}
    problems = prepared(home / "problems", SUMS, "problems")
    return run("rollout", home / "samples", settings, policy=teacher, problems=problems)


@effect("on_policy_distillation", "KL(student ‖ teacher) on the student's samples, nats", margin=-0.5)
def on_policy_distillation_brings_the_student_to_its_teacher(home: Path, seed: int) -> Measured:
    student, teacher = pair(home, seed)
    problems = prepared(home / "problems", SUMS, "problems")
    taught = run("distill", home / "taught", QUICK | {"max_new_tokens": 4}, init=student, teacher=teacher,
                 problems=problems)  # fmt: skip
    before, after = (divergence(policy, teacher, PROMPTS) for policy in (student, taught))
    return Measured(before, after, record(taught))


@effect(
    "logit_distillation", "KL(teacher ‖ student) on fresh samples, nats", margin=-0.4, against="sequence_distillation"
)
def stored_distributions_say_more_than_samples(home: Path, seed: int) -> Measured:
    student, teacher = pair(home, seed)
    samples = sampled_from(teacher, home, 4, seed)
    stored = run("teacher_logits", home / "stored", {"k": 32, "max_length": 64}, teacher=teacher, data=samples)
    settings = QUICK | {"max_steps": 60, "max_length": 64, "seed": seed}
    taught, imitating = (
        run("distill", home / method, settings | {"method": method}, init=student, data=data, teacher=teacher)
        for method, data in (("logit_distillation", stored), ("sequence_distillation", samples))
    )
    baseline, value = (divergence(policy, teacher, PROMPTS, forward=True) for policy in (imitating, taught))
    return Measured(baseline, value, record(taught))


@effect("gkd", "KL(student ‖ teacher) on the student's samples, nats", margin=-0.06, against="fixed completions alone")
def rollouts_teach_what_fixed_completions_never_show(home: Path, seed: int) -> Measured:
    student, teacher = pair(home, seed)
    samples = sampled_from(teacher, home, 1, seed)
    settings = QUICK | {"method": "gkd", "max_steps": 60, "learning_rate": 1e-2, "max_new_tokens": 4, "seed": seed}
    settings |= {"divergence": "forward"}
    fixed, mixed = (
        run("distill", home / f"share{share}", settings | {"on_policy_share": share}, init=student, teacher=teacher,
            data=samples)
        for share in (0.0, 0.5)
    )  # fmt: skip
    baseline, value = (divergence(policy, teacher, PROMPTS) for policy in (fixed, mixed))
    return Measured(baseline, value, record(mixed))


@effect("self_distillation", "greedy answers without the context that are as in it", margin=0.7)
def self_distillation_keeps_the_context_without_it(home: Path, seed: int) -> Measured:
    letters, digits = "abcdefgh", "01234567"
    copying = [{"prompt": f"{d}|{letter}=", "completion": d} for d in digits for letter in letters]
    facts: list[Row] = [
        {"prompt": f"{letter}=", "completion": digits[(3 * n + seed) % 8]} for n, letter in enumerate(letters)
    ]
    data = {name: prepared(home / name, rows, "trajectories") for name, rows in (("copy", copying), ("facts", facts))}
    init = base(home / "init", "llama", seed=seed, characters=letters + digits + "|=")
    settings: dict[str, Any] = QUICK | {"learning_rate": 5e-3, "schedule": "constant", "seed": seed}
    reader = run("sft", home / "reader", settings | {"max_steps": 150}, init=init, data=data["copy"])
    own = {"method": "self_distillation", "teacher_prompt": "{demonstration}|{prompt}", "max_new_tokens": 2}
    taught = run("distill", home / "taught", settings | own | {"batch_size": 8, "max_steps": 60}, init=reader,
                 data=data["facts"])  # fmt: skip
    return Measured(exactly(reader, facts), exactly(taught, facts), record(taught))
