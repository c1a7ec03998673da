"""RL beyond the support: hints where every sample fails."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tests.effects.effect import Measured, effect
from tests.effects.policies import pass_at
from tests.training.jobs import answered, base, prepared, record, run

LETTERS, LENGTH = "abcdefgh", 5


def words(random_: random.Random, count: int) -> list[str]:
    return ["".join(random_.choices(LETTERS, k=LENGTH)) for _ in range(count)]


def speller(home: Path, seed: int, prompts: list[str]) -> Path:
    """A policy that answers each prompt with some word of five letters, any of 32768, and ends it."""
    draw = random.Random(seed)
    rows = [{"prompt": draw.choice(prompts), "completion": word} for word in words(draw, 1000)]
    settings = {"max_steps": 100, "batch_size": 32, "learning_rate": 5e-3, "seed": seed}
    raw = base(home / "raw", "llama", characters="01:" + LETTERS, seed=seed)
    return run("sft", home / "init", settings, init=raw, data=prepared(home / "words", rows, "trajectories"))


@effect("grpo", "pass@1 of words that no sample hits, without a hint", margin=0.2, against="the same without hints")
def hints_bring_what_is_out_of_reach_within_reach(home: Path, seed: int) -> Measured:
    prompts = ["0:", "1:"]
    rows = [
        {"prompt": prompt, "verifier": "exact", "reference": word}
        for prompt, word in zip(prompts, words(random.Random(-seed - 1), 2), strict=True)
    ]
    init, problems = speller(home, seed, prompts), prepared(home / "problems", rows, "problems")
    demos = prepared(home / "demos", answered(rows), "trajectories")
    settings: dict[str, Any] = {"max_steps": 200, "batch_size": 32, "group_size": 16, "learning_rate": 3e-3}
    settings |= {"kl": 0.05, "schedule": "constant", "max_new_tokens": LENGTH + 1, "seed": seed}
    alone = run("rl", home / "alone", settings, init=init, problems=problems)
    guided = run("rl", home / "guided", settings | {"hint_until": 0.9}, init=init, problems=problems, hints=demos)
    before, after = (pass_at(p, problems, home / f"{p.name}-e", 64, LENGTH + 1) for p in (alone, guided))
    return Measured(before["pass_at_1"], after["pass_at_1"], record(guided))
