"""Merging: what specialists of one origin keep in one policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.effects.effect import Measured, effect
from tests.effects.of_consolidation import LETTERS, skill
from tests.effects.policies import exactly
from tests.training.jobs import Row, base, prepared, record, run

_WIDE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "initializer_range": 0.05}


def specialists(home: Path, names: str, seed: int) -> tuple[Path, list[Path], list[list[Row]]]:
    """An origin that has one skill, a specialist in each of the others trained from it, and their skills."""
    skills = {name: skill(name, seed)[:6] for name in names}

    def trained(init: Path, name: str, steps: int, rate: float) -> Path:
        data = prepared(home / f"{name}-data", skill(name, seed)[:6], "trajectories")
        settings = {"max_steps": steps, "batch_size": 6, "learning_rate": rate, "seed": seed}
        return run("sft", home / name, settings, init=init, data=data)

    init = base(home / "init", "llama", seed=seed, characters=LETTERS + "XYO=", **_WIDE)
    origin = trained(init, "O", 30, 2e-3)
    return origin, [trained(origin, name, 20, 1e-3) for name in names], list(skills.values())


def kept(policy: Path, skills: list[list[Row]]) -> list[float]:
    """Share of right greedy answers, by skill."""
    return [exactly(policy, rows) for rows in skills]


def merged(home: Path, method: str, policies: list[Path], origin: Path | None = None, **settings: Any) -> Path:
    parents = {"policies": policies} | ({"base": [origin]} if origin else {})
    return run("merge", home / method, {"method": method, **settings}, **parents)


@effect("ties", "greedy answers right, of the worse of two skills", margin=0.3, against="the better specialist")
def ties_keeps_both_of_two_specialists(home: Path, seed: int) -> Measured:
    origin, policies, skills = specialists(home, "XY", seed)
    both = merged(home, "ties", policies, origin, density=0.5)
    alone = max(min(kept(policy, skills)) for policy in policies)
    return Measured(alone, min(kept(both, skills)), record(both))


@effect("task_arithmetic", "greedy answers right, of the worse of two skills", 0.3, against="the better specialist")
def the_sum_of_two_task_vectors_has_both_skills(home: Path, seed: int) -> Measured:
    origin, policies, skills = specialists(home, "XY", seed)
    both = merged(home, "task_arithmetic", policies, origin, weights=[0.7, 0.7])
    alone = max(min(kept(policy, skills)) for policy in policies)
    return Measured(alone, min(kept(both, skills)), record(both))


@effect("dare", "greedy answers right with a fifth of the task vector", margin=0.4, against="a fifth as large a one")
def dare_needs_few_of_the_changes(home: Path, seed: int) -> Measured:
    origin, policies, skills = specialists(home, "X", seed)
    small = merged(home, "task_arithmetic", policies, origin, weights=[0.2])
    thin = merged(home, "dare", policies, origin, density=0.2, seed=seed)
    return Measured(*(kept(policy, skills)[0] for policy in (small, thin)), record(thin))


def brought_back(home: Path, seed: int, method: str) -> Measured:
    """The worse of an old and a new skill, of the trained policy and of what lies between it and the one before."""
    origin, policies, skills = specialists(home, "X", seed)
    skills = [*skills, skill("O", seed)[:6]]
    between = merged(home, method, [policies[0], origin], weights=[0.6, 0.4])
    return Measured(*(min(kept(policy, skills)) for policy in (policies[0], between)), record(between))


@effect("linear", "greedy answers right, of the worse of old and new skill", margin=0.1, against="after training")
def an_average_with_the_policy_before_brings_back_what_was_forgotten(home: Path, seed: int) -> Measured:
    return brought_back(home, seed, "linear")


@effect("slerp", "greedy answers right, of the worse of old and new skill", margin=0.1, against="after training")
def the_arc_to_the_policy_before_brings_back_what_was_forgotten(home: Path, seed: int) -> Measured:
    return brought_back(home, seed, "slerp")
