"""Supervised fine-tuning: what it teaches, what that costs, and what keeps the cost down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.effects.effect import Measured, effect
from tests.effects.policies import exactly, pass_at
from tests.training.jobs import SUMS, Row, answered, base, prepared, record, run


@effect("sft", "greedy answers that are as demonstrated", margin=0.9)
def sft_teaches_what_is_demonstrated(home: Path, seed: int) -> Measured:
    demos = answered(SUMS)
    init = base(home / "init", "llama", seed=seed)
    data = prepared(home / "data", demos, "trajectories")
    settings = {"max_steps": 60, "batch_size": 16, "learning_rate": 1e-2, "seed": seed}
    trained = run("sft", home / "sft", settings, init=init, data=data)
    return Measured(exactly(init, demos), exactly(trained, demos), record(trained))


# A second task whose answers share no token with those of the first.
NAMES = [{"prompt": f"{a}*{b}=", "completion": "abcdefghijklmnop"[4 * a + b]} for a in range(4) for b in range(4)]
CHARACTERS = "0123456789+*=abcdefghijklmnop"


class TwoTasks(NamedTuple):
    """A policy that knows sums, demonstrations of names, and the sums as anchors."""

    home: Path
    seed: int
    init: Path
    anchors: Path
    data: Path

    def taught(self, name: str, data: Path | None = None, **settings: Any) -> Path:
        """The policy after the names, which every method must have taught it."""
        brief = {"batch_size": 16, "learning_rate": 5e-3, "max_steps": 100, "seed": self.seed, "anchor_tokens": 3}
        parents = {"init": self.init, "data": data or self.data, "anchors": self.anchors}
        return run("sft", self.home / name, brief | settings, **parents)


def two_tasks(home: Path, seed: int) -> TwoTasks:
    raw = base(home / "raw", "llama", seed=seed, characters=CHARACTERS)
    sums = prepared(home / "sums", answered(SUMS), "trajectories")
    settings = {"max_steps": 60, "batch_size": 16, "learning_rate": 1e-2, "seed": seed}
    init = run("sft", home / "init", settings, init=raw, data=sums)
    anchors = prepared(home / "anchors", SUMS, "problems")
    return TwoTasks(home, seed, init, anchors, prepared(home / "names", NAMES, "trajectories"))


def on_anchors(quantity: str, plain: Path, held: Path) -> Measured:
    """Both have learned the names; this is what is left of the sums."""
    assert min(exactly(policy, NAMES) for policy in (plain, held)) > 0.9
    baseline, value = (record(policy).metrics[f"anchors/{quantity}"] for policy in (plain, held))
    return Measured(baseline, value, record(held))


@effect("sft", "share of anchors that left the support", margin=0.4, against="nothing lost")
def sft_on_a_new_task_forgets_the_old_one(home: Path, seed: int) -> Measured:
    plain = two_tasks(home, seed).taught("plain")
    return Measured(0.0, record(plain).metrics["anchors/attrition"], record(plain))


@effect("sft", "share of anchors that left the support", margin=-0.4, against="sft without replay, as many steps")
def replay_keeps_what_plain_sft_forgets(home: Path, seed: int) -> Measured:
    tasks = two_tasks(home, seed)
    samples = run(
        "rollout", home / "own", {"samples": 8, "max_new_tokens": 3}, policy=tasks.init, problems=tasks.anchors
    )
    own = run("verify", home / "right", {"min_reward": 1.0, "distinct": True}, trajectories=samples)
    settings = {"uri": str(home / "names.jsonl"), "kind": "trajectories", "replay_share": 0.5}
    mixture = run("prepare", home / "mixture", settings, replay=own)
    found = on_anchors("attrition", tasks.taught("plain"), tasks.taught("replayed", mixture))
    assert found.value <= 0.05
    return found


@effect("anchored", "share of anchors that left the support", margin=-0.4, against="sft, as many steps")
def an_anchor_keeps_what_plain_sft_forgets(home: Path, seed: int) -> Measured:
    tasks = two_tasks(home, seed)
    held = tasks.taught("anchored", method="anchored", anchor_weight=0.5)
    return on_anchors("attrition", tasks.taught("plain"), held)


@effect("proximal", "pass@1 on anchors", margin=0.03, against="sft, as many steps")
def a_trust_region_forgets_less(home: Path, seed: int) -> Measured:
    tasks, brief = two_tasks(home, seed), {"learning_rate": 3e-3, "max_steps": 120}
    held = tasks.taught("proximal", method="proximal", refresh=15, **brief)
    return on_anchors("pass_at_1_after", tasks.taught("plain", **brief), held)


@effect("asft", "pass@1 on anchors", margin=0.25, against="dft, as many steps")
def an_anchor_stops_the_drift_of_dynamic_fine_tuning(home: Path, seed: int) -> Measured:
    tasks = two_tasks(home, seed)
    drifted, held = (record(tasks.taught(name, method=name)) for name in ("dft", "asft"))
    return Measured(*(made.metrics["anchors/pass_at_1_after"] for made in (drifted, held)), held)


def guessing(out: Path, raw: Path, offsets: Sequence[int], seed: int) -> Path:
    """A policy that misses sums by each of these offsets as often."""
    guesses: list[Row] = [
        {"prompt": row["prompt"], "completion": str(int(row["reference"]) + off)} for row in SUMS for off in offsets
    ]
    data = prepared(out.with_name(f"{out.name}-guesses"), guesses, "trajectories")
    settings = {"max_steps": 80, "batch_size": 32, "learning_rate": 1e-2, "seed": seed}
    return run("sft", out, settings, init=raw, data=data)


def sometimes_right(home: Path, seed: int) -> tuple[Path, Path]:
    """A policy that is right about once in four times, and the problems."""
    raw = base(home / "raw", "llama", seed=seed, characters="0123456789+=")
    return guessing(home / "init", raw, range(4), seed), prepared(home / "problems", SUMS, "problems")


@effect("sft", "pass@1 after rejection sampling, pass@64 kept", margin=0.3)
def rejection_sampling_raises_pass_1_and_keeps_coverage(home: Path, seed: int) -> Measured:
    init, problems = sometimes_right(home, seed)
    samples = run(
        "rollout", home / "own", {"samples": 32, "max_new_tokens": 3, "seed": seed}, policy=init, problems=problems
    )
    right = run("verify", home / "right", {"min_reward": 1.0, "distinct": True}, trajectories=samples)
    settings = {"max_steps": 40, "batch_size": 16, "learning_rate": 2e-3, "seed": seed}
    trained = run("sft", home / "rft", settings, init=init, data=right)
    before, after = (pass_at(p, problems, home / f"{p.name}-evaluation", 128, 3) for p in (init, trained))
    assert after["pass_at_64"] >= before["pass_at_64"] - 0.01
    return Measured(before["pass_at_1"], after["pass_at_1"], record(trained))


@effect("dft", "pass@1 where every second demonstration is noise", margin=0.2, against="sft, as many steps")
def dynamic_fine_tuning_leaves_out_what_is_out_of_reach(home: Path, seed: int) -> Measured:
    init, problems = sometimes_right(home, seed)
    noise = [row | {"completion": "+" + row["completion"]} for row in answered(SUMS)]
    data = prepared(home / "data", [*answered(SUMS), *noise], "trajectories")
    settings = {"max_steps": 40, "batch_size": 32, "learning_rate": 3e-3, "seed": seed}
    plain, dynamic = (run("sft", home / m, settings | {"method": m}, init=init, data=data) for m in ("sft", "dft"))
    rates = [pass_at(p, problems, home / f"{p.name}-evaluation", 32, 4)["pass_at_1"] for p in (plain, dynamic)]
    return Measured(*rates, record(dynamic))
