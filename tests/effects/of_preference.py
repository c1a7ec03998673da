"""Preferences: what every method does to pairs that it has not seen, rates that are too high, pairs that grow stale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from posttrain.components.preference.stage import PreferenceMethod

from posttrain.artifacts.trajectories import read_trajectories
from posttrain.generation.scoring import Text, completion_logprobs
from posttrain.generation.transformers import load_policy
from tests.effects.effect import Measured, effect
from tests.effects.of_supervised import guessing, sometimes_right
from tests.effects.policies import pass_at
from tests.training.jobs import SUMS, Row, base, prepared, record, run

# A digit is preferred to a letter, whatever the prompt.
LIKED = [{"prompt": f"{n}=", "chosen": str(n % 10), "rejected": "abcdefghij"[n % 10]} for n in range(40)]
SEEN, UNSEEN = LIKED[:24], LIKED[24:]


def logprob(policy: Path, rows: Sequence[Row], side: str) -> float:
    """Mean log-probability of one side of the pairs, nats a completion."""
    texts = [Text(row["prompt"], row[side]) for row in rows]
    return float(sum(values.sum() for values in completion_logprobs(*load_policy(policy), texts)) / len(rows))


def declared(method: str) -> None:
    """The effect that every method has: unseen pairs are told apart better."""

    def prefers(home: Path, seed: int) -> Measured:
        init = base(home / "init", "llama", characters="0123456789=abcdefghij", seed=seed)
        data = prepared(home / "pairs", SEEN, "trajectories")
        settings = {"method": method, "max_steps": 16, "batch_size": 24, "learning_rate": 3e-3, "seed": seed}
        trained = run("preference", home / "trained", settings, init=init, data=data)
        before, after = (logprob(p, UNSEEN, "chosen") - logprob(p, UNSEEN, "rejected") for p in (init, trained))
        return Measured(before, after, record(trained))

    prefers.__name__ = f"{method}_prefers_in_unseen_pairs_what_was_preferred"
    effect(method, "log π(chosen) − log π(rejected) of unseen pairs, nats", margin=1.0)(prefers)


for each in get_args(PreferenceMethod):
    declared(each)


def own_pairs(home: Path, number: int, policy: Path, problems: Path, seed: int) -> Path:
    """Pairs of the policy's own answers, of few samples: some wrong answers are not among them."""
    sampling = {"samples": 6, "max_new_tokens": 3, "seed": 100 * seed + number}
    samples = run("rollout", home / f"samples{number}", sampling, policy=policy, problems=problems)
    scored = run("verify", home / f"scored{number}", {}, trajectories=samples)
    return run("pairs", home / f"pairs{number}", {"seed": seed}, trajectories=scored)


def trained_on(home: Path, name: str, init: Path, data: Path, **settings: Any) -> Path:
    return run("preference", home / name, {"method": "dpo", "batch_size": 32} | settings, init=init, data=data)


@effect("dpo", "pass@1 at a small rate, pass@64 kept", margin=0.2)
def dpo_at_a_small_rate_reshapes(home: Path, seed: int) -> Measured:
    init, problems = sometimes_right(home, seed)
    pairs = own_pairs(home, 1, init, problems, seed)
    small = trained_on(home, "small", init, pairs, max_steps=30, learning_rate=5e-4, seed=seed)
    before, after = (pass_at(p, problems, home / f"{p.name}-evaluation", 128, 3) for p in (init, small))
    assert after["pass_at_64"] >= before["pass_at_64"] - 0.05
    return Measured(before["pass_at_1"], after["pass_at_1"], record(small))


@effect("dpo", "pass@64", margin=-0.1, against="dpo at a small rate, as many steps")
def dpo_at_a_large_rate_displaces(home: Path, seed: int) -> Measured:
    """Its chosen answers, too, become less likely than they were."""
    init, problems = sometimes_right(home, seed)
    pairs = own_pairs(home, 1, init, problems, seed)
    rows = read_trajectories(pairs)
    small, large = (
        trained_on(home, name, init, pairs, max_steps=30, learning_rate=rate, seed=seed)
        for name, rate in (("small", 5e-4), ("large", 5e-2))
    )
    assert logprob(large, rows, "chosen") < logprob(init, rows, "chosen") < logprob(small, rows, "chosen")
    found = [pass_at(p, problems, home / f"{p.name}-evaluation", 128, 3)["pass_at_64"] for p in (small, large)]
    return Measured(*found, record(large))


@effect("dpo", "pass@1", margin=0.03, against="dpo on the first round's pairs, as many steps")
def rounds_of_fresh_pairs_beat_stale_ones(home: Path, seed: int) -> Measured:
    init, problems = sometimes_right(home, seed)
    brief = {"learning_rate": 1e-3, "beta": 0.3, "seed": seed}
    policy = init
    for number in (1, 2, 3):
        pairs = own_pairs(home, number, policy, problems, seed)
        policy = trained_on(home, f"round{number}", policy, pairs, max_steps=30, **brief)
    stale = trained_on(home, "stale", init, home / "pairs1", max_steps=90, **brief)
    rates = [pass_at(p, problems, home / f"{p.name}-evaluation", 64, 3)["pass_at_1"] for p in (stale, policy)]
    return Measured(*rates, record(policy))


@effect("delta", "pass@1 of a learner that is stronger than both samplers", margin=0.15)
def a_difference_between_weaker_policies_teaches(home: Path, seed: int) -> Measured:
    """Delta learning (2507.06187): what the better of two weak policies does more often is right more often."""
    raw = base(home / "raw", "llama", seed=seed, characters="0123456789+=")
    misses = {"learner": (0, 1), "better": (0, 2, 3), "worse": (1, 2, 3)}
    learner, better, worse = (guessing(home / name, raw, offsets, seed) for name, offsets in misses.items())
    problems = prepared(home / "problems", SUMS, "problems")
    samples = [
        run(
            "rollout",
            home / f"{p.name}s",
            {"samples": 12, "max_new_tokens": 3, "seed": seed},
            policy=p,
            problems=problems,
        )
        for p in (better, worse)
    ]
    settings = {"method": "delta", "max_pairs_per_problem": 0, "seed": seed}
    pairs = run("pairs", home / "pairs", settings, trajectories=samples[0], weaker=samples[1])
    trained = trained_on(home, "trained", learner, pairs, max_steps=20, learning_rate=5e-4, seed=seed)
    rates = [pass_at(p, problems, home / f"{p.name}-evaluation", 64, 3)["pass_at_1"] for p in (learner, trained)]
    assert rates[0] > pass_at(better, problems, home / "better-evaluation", 64, 3)["pass_at_1"]
    return Measured(*rates, record(pairs))
