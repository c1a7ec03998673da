"""Reinforcement learning."""

from __future__ import annotations

from pathlib import Path

from tests.effects.effect import Measured, effect
from tests.effects.policies import pass_at
from tests.training.jobs import base, prepared, record, run

LETTERS = [
    {"id": "x", "prompt": "x:", "verifier": "exact", "reference": "a"},
    {"id": "y", "prompt": "y:", "verifier": "exact", "reference": "b"},
]


@effect("grpo", "pass@1, two prompts with an answer each", margin=0.5)
def rl_makes_right_answers_likely(home: Path, seed: int) -> Measured:
    init = base(home / "init", "llama", characters="abxy:", seed=seed)
    problems = prepared(home / "problems", LETTERS, "problems")
    settings = {"max_steps": 40, "batch_size": 32, "group_size": 16, "learning_rate": 3e-3, "max_new_tokens": 1}
    trained = run("rl", home / "rl", settings | {"seed": seed}, init=init, problems=problems)
    before, after = (pass_at(p, problems, home / f"{p.name}-evaluation", 200, 1) for p in (init, trained))
    return Measured(before["pass_at_1"], after["pass_at_1"], record(trained))
