"""Critique and revision: a policy that answers wrongly at first, and rightly when it is asked to revise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.effects.effect import Measured, effect
from tests.effects.policies import exactly
from tests.training.jobs import SUMS, answered, base, prepared, record, run

REQUESTS = {"critique": "{prompt}{answer}?", "revision": "{prompt}{answer}{critique}!"}
GREEDY = {"temperature": 0, "max_new_tokens": 4}
LEARN = {"batch_size": 16, "learning_rate": 1e-2}


def answers_and_revisions(home: Path, seed: int) -> tuple[Path, Path, Path]:
    """The policy, its first answers, and its revisions of them."""
    policy = base(home / "init", "llama", seed=seed)
    data = prepared(home / "data", [row for sum_ in SUMS for row in _taught(sum_)], "trajectories")
    policy = run("sft", home / "policy", {"max_steps": 100, "seed": seed, **LEARN}, init=policy, data=data)
    problems = prepared(home / "problems", SUMS, "problems")
    answers = run("rollout", home / "answers", {"samples": 1, "seed": seed, **GREEDY}, policy=policy, problems=problems)
    settings = {"seed": seed, **GREEDY, **REQUESTS}
    return policy, answers, run("revise", home / "revised", settings, policy=policy, trajectories=answers)


def _taught(problem: dict[str, Any]) -> list[dict[str, str]]:
    """A sum is one too much at first; the critique says so, and the revision is right."""
    prompt, right = problem["prompt"], problem["reference"]
    wrong = str(int(right) + 1)
    return [
        {"prompt": prompt, "completion": wrong},
        {"prompt": f"{prompt}{wrong}?", "completion": "no"},
        {"prompt": f"{prompt}{wrong}no!", "completion": right},
    ]


@effect("revise", "verified score of answers", margin=0.8, against="the first answers")
def revision_mends_answers(home: Path, seed: int) -> Measured:
    revised = record(answers_and_revisions(home, seed)[2])
    return Measured(revised.metrics["reward_before"], revised.metrics["reward_after"], revised)


@effect("revise", "greedy answers that are right", margin=0.8, against="SFT on the first answers")
def sft_on_revisions_makes_them_first_answers(home: Path, seed: int) -> Measured:
    policy, answers, revised = answers_and_revisions(home, seed)
    settings = {"max_steps": 30, "seed": seed, **LEARN}
    on_first = run("sft", home / "on_first", settings, init=policy, data=answers)
    on_revised = run("sft", home / "on_revised", settings, init=policy, data=revised)
    right = answered(SUMS)
    return Measured(exactly(on_first, right), exactly(on_revised, right), record(revised))
