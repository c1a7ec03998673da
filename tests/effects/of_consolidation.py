"""Consolidation: several teachers into one student, other tokenizers, smaller students."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from posttrain.generation.decoding import Decoding
from posttrain.generation.transformers import load_policy, sample
from tests.effects.effect import Measured, effect
from tests.effects.policies import exactly
from tests.training.jobs import SUMS, Row, answered, base, prepared, record, run

LETTERS = "abcdefgh"
ON_POLICY: dict[str, Any] = {"max_steps": 60, "batch_size": 16, "learning_rate": 5e-3, "max_new_tokens": 2}


def skill(name: str, seed: int) -> list[Row]:
    """A made-up table: to each letter, under this name, another letter."""
    draw = random.Random(f"{name} {seed}")
    return [{"prompt": f"{name}{letter}=", "completion": draw.choice(LETTERS)} for letter in LETTERS]


def asked(rows: list[Row], **columns: str) -> list[Row]:
    """Demonstrations as problems."""
    return [{"prompt": r["prompt"], "verifier": "exact", "reference": r["completion"], **columns} for r in rows]


def taught(home: Path, name: str, init: Path, rows: list[Row], steps: int, seed: int) -> Path:
    """A specialist: supervised on some rows."""
    settings = {"max_steps": steps, "batch_size": len(rows), "learning_rate": 1e-2, "seed": seed}
    return run("sft", home / name, settings, init=init, data=prepared(home / f"{name}-data", rows, "trajectories"))


@effect("on_policy_distillation", "greedy answers right, of the worse of two skills", margin=0.5, against="one teacher")
def two_specialists_become_one_policy(home: Path, seed: int) -> Measured:
    skills = {name: skill(name, seed) for name in "XY"}
    init = base(home / "init", "llama", seed=seed, characters=LETTERS + "XY=")
    teachers = [taught(home, name, init, rows, 60, seed) for name, rows in skills.items()]
    problems = prepared(
        home / "problems", [row for n, rows in skills.items() for row in asked(rows, slice=n)], "problems"
    )
    worse = []
    for number, (given, routes) in enumerate([(teachers[:1], {}), (teachers, {"X": 1, "Y": 2})]):
        student = run("distill", home / f"student{number}", ON_POLICY | {"routes": routes, "seed": seed}, init=init,
                      teacher=given, problems=problems)  # fmt: skip
        worse.append(min(exactly(student, rows) for rows in skills.values()))
    return Measured(*worse, record(student))


@effect("sequence_distillation", "greedy answers right; the teacher has another tokenizer", margin=0.7)
def sequences_carry_answers_to_another_tokenizer(home: Path, seed: int) -> Measured:
    demos = answered(SUMS)
    student = base(home / "student", "llama", seed=seed)
    teacher = taught(home, "teacher", base(home / "init", "qwen2", seed=seed + 1, characters="=+9876543210"), demos, 60,
                     seed)  # fmt: skip
    problems = prepared(home / "problems", SUMS, "problems")
    greedy = {"samples": 1, "temperature": 0.0, "max_new_tokens": 4}
    samples = run("rollout", home / "samples", greedy, policy=teacher, problems=problems)
    settings = {"method": "sequence_distillation", "max_steps": 60, "batch_size": 16, "learning_rate": 1e-2}
    made = run("distill", home / "taught", settings | {"seed": seed}, init=student, teacher=teacher, data=samples)
    return Measured(exactly(student, demos), exactly(made, demos), record(made))


@effect("student", "greedy answers right after distillation", margin=0.15, against="a random student, as many steps")
def a_pruned_student_learns_faster_than_a_random_one(home: Path, seed: int) -> Measured:
    rows = skill("X", seed) + skill("Y", seed)
    shape = {"characters": LETTERS + "XY="}
    teacher = taught(home, "teacher", base(home / "init", "llama", seed=seed, num_hidden_layers=4, **shape), rows, 80,
                     seed)  # fmt: skip
    problems = prepared(home / "problems", asked(rows), "problems")
    pruned = run("student", home / "pruned", {"layers": 2, "max_ratio": 0.9}, teacher=teacher)
    right = []
    for student in (base(home / "random", "llama", seed=seed + 1, **shape), pruned):
        made = run("distill", home / f"{student.name}-taught", ON_POLICY | {"max_steps": 10, "seed": seed},
                   init=student, teacher=teacher, problems=problems)  # fmt: skip
        right.append(exactly(made, rows))
    return Measured(*right, record(pruned))


MODES = "ijklmnopqrstuvwx"


def narrow(home: Path, seed: int) -> tuple[dict[str, Path], dict[str, set[str]]]:
    """Students too small for a teacher with four answers to each prompt, by the divergence they learned under."""
    answers = {f"{mode}:": {LETTERS[(3 * n + k * (1 + n % 3)) % 8] for k in range(4)} for n, mode in enumerate(MODES)}
    rows: list[Row] = [{"prompt": p, "completion": a} for p, those in answers.items() for a in sorted(those)]
    shape = {"characters": LETTERS + MODES + ":"}
    teacher = taught(home, "teacher", base(home / "init", "llama", seed=seed, **shape), rows, 80, seed)
    small = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 4}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    student = base(home / "student", "llama", seed=seed + 50, **shape, **small, **heads)
    problems = prepared(home / "problems", asked([{"prompt": p, "completion": "a"} for p in answers]), "problems")
    settings = ON_POLICY | {"max_steps": 120, "learning_rate": 3e-2, "seed": seed}
    made = {
        divergence: run("distill", home / divergence, settings | {"divergence": divergence}, init=student,
                        teacher=teacher, problems=problems)
        for divergence in ("forward", "reverse")
    }  # fmt: skip
    return made, answers


def drawn(policy: Path, answers: dict[str, set[str]]) -> list[list[str]]:
    """32 samples to each prompt."""
    model, tokenizer = load_policy(policy)
    found = sample(model, tokenizer, list(answers), Decoding(samples=32, max_new_tokens=2, seed=3))
    return [[completion.text for completion in completions] for completions in found]


@effect(
    "on_policy_distillation", "teacher's answers found in 32 samples, small student", margin=0.08, against="reverse"
)
def forward_keeps_coverage(home: Path, seed: int) -> Measured:
    made, answers = narrow(home, seed)
    found = [
        sum(
            len({*texts} & own) / len(own) for texts, own in zip(drawn(made[d], answers), answers.values(), strict=True)
        )
        / len(answers)
        for d in ("reverse", "forward")
    ]
    return Measured(*found, record(made["forward"]))


@effect(
    "on_policy_distillation", "samples that are the teacher's answers, small student", margin=0.1, against="forward"
)
def reverse_sharpens(home: Path, seed: int) -> Measured:
    made, answers = narrow(home, seed)
    right = [
        sum(text in own for texts, own in zip(drawn(made[d], answers), answers.values(), strict=True) for text in texts)
        / (32 * len(answers))
        for d in ("forward", "reverse")
    ]
    return Measured(*right, record(made["reverse"]))
