"""Reinforcement learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.components.rl.variants import VARIANTS

from tests.effects.effect import Measured, effect
from tests.effects.policies import pass_at
from tests.training.jobs import base, prepared, record, run

LETTERS = [
    {"id": "x", "prompt": "x:", "verifier": "exact", "reference": "a"},
    {"id": "y", "prompt": "y:", "verifier": "exact", "reference": "b"},
]
ONE_TOKEN: dict[str, Any] = {"learning_rate": 3e-3, "max_new_tokens": 1}


def learned(home: Path, seed: int, **settings: Any) -> Measured:
    """pass@1 of two prompts with an answer each, before and after."""
    init = base(home / "init", "llama", characters="abxy:", seed=seed)
    problems = prepared(home / "problems", LETTERS, "problems")
    settings = ONE_TOKEN | {"max_steps": 40, "batch_size": 32, "group_size": 16, "seed": seed} | settings
    trained = run("rl", home / "rl", settings, init=init, problems=problems)
    before, after = (pass_at(p, problems, home / f"{p.name}-evaluation", 200, 1) for p in (init, trained))
    return Measured(before["pass_at_1"], after["pass_at_1"], record(trained))


def declared(method: str, kl: float) -> None:
    """The effect that every variant has."""

    def raises(home: Path, seed: int) -> Measured:
        return learned(home, seed, method=method, kl=kl)

    raises.__name__ = f"{method}_makes_right_answers_likely"
    effect(method, "pass@1, two prompts with an answer each", margin=0.5)(raises)


for each in VARIANTS:
    if each != "dapo":  # it does not learn from answers without an end, and here none has one
        declared(each, kl=0.001 if each == "reinforce_pp" else 0.0)


# Of sixteen problems four can teach anything: no single token is the answer to the others.
UNEVEN = [
    {"id": f"{number:x}", "prompt": f"{number:x}:", "verifier": "exact", "reference": reference}
    for number, reference in enumerate([*"abcd", *["no token"] * 12])
]


def on_the_edge(home: Path, seed: int, with_it: dict[str, Any], **settings: Any) -> Measured:
    """pass@1 of the four that can be learned, after equally many steps without and with something."""
    # Narrow weights: every letter is about as likely as any other, so that the four are solved sometimes.
    init = base(home / "init", "llama", characters="abcdef0123456789:", seed=seed, initializer_range=0.02)
    problems = prepared(home / "problems", UNEVEN, "problems")
    common = (
        ONE_TOKEN | {"max_steps": 30, "learning_rate": 1e-2, "batch_size": 32, "group_size": 8, "seed": seed} | settings
    )
    measure = {"samples": 128, "max_new_tokens": 1, "trained_on": True}
    evaluation = run("evaluate", home / "all", measure, policy=init, problems=problems)
    parents = {"init": init, "problems": problems}
    without = run("rl", home / "without", common, **parents)
    chosen = {"evaluation": evaluation} if "curriculum" in with_it else {}
    made = run("rl", home / "with", common | with_it, **parents, **chosen)
    edge = prepared(home / "edge", UNEVEN[:4], "problems")
    before, after = (pass_at(p, edge, home / f"{p.name}-edge", 64, 1) for p in (without, made))
    return Measured(before["pass_at_1"], after["pass_at_1"], record(made))


@effect("dapo", "pass@1 of the problems that can teach", margin=0.15, against="the same without dynamic sampling")
def dynamic_sampling_learns_more_in_equally_many_steps(home: Path, seed: int) -> Measured:
    # An answer of one token ends at the limit: masked, it would teach nothing.
    loss = {"method": "dapo", "dynamic_sampling": "never", "trainer_args": {"mask_truncated_completions": False}}
    return on_the_edge(home, seed, {"dynamic_sampling": "always", "max_resampling": 8}, **loss)


@effect("grpo", "pass@1 of the problems that can teach", margin=0.08, against="the same without a curriculum")
def the_edge_teaches_more_in_equally_many_steps(home: Path, seed: int) -> Measured:
    return on_the_edge(home, seed, {"curriculum": "edge"})
