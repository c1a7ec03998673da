"""Process supervision and search, in the world of chained steps (`posttrain.worlds.chains`)."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from posttrain.artifacts.trajectories import read_trajectories
from posttrain.worlds import chains
from tests.effects.effect import Measured, effect
from tests.effects.policies import pass_at
from tests.training.jobs import record, run

WRITING: dict[str, Any] = {"max_new_tokens": 12, "batch_rows": 2048}
LEARNING: dict[str, Any] = {"batch_size": 32, "learning_rate": 2e-3, "max_steps": 120}
BUDGET = 8


@dataclass(frozen=True)
class World:
    """The base, problems, and the process reward model that was made of its own solutions."""

    base: Path
    problems: Path
    held_out: Path
    labelled: Path
    judge: Path


@cache
def world(seed: int) -> World:
    """Built once a seed for all effects: the pre-training alone takes seconds."""
    home = Path(tempfile.mkdtemp(prefix="posttrain-chains-"))
    chains.build(home / "world", seed)
    base = run("base", home / "base", {"uri": str(home / "world" / "base")})
    problems, held_out = (
        run("prepare", home / name, {"uri": str(home / "world" / f"{name}.jsonl"), "kind": "problems"})
        for name in ("problems", "held_out")
    )
    solutions = run(
        "rollout", home / "solutions", {**WRITING, "samples": 4, "seed": seed}, policy=base, problems=problems
    )
    labelled = run(
        "step_labels",
        home / "labelled",
        {**WRITING, "separator": chains.SEPARATOR, "seed": seed},
        policy=base,
        trajectories=solutions,
    )
    judge = run(
        "process_reward_model", home / "judge", {**LEARNING, "seed": seed, "held_out": 0.2}, init=base, data=labelled
    )
    return World(base, problems, held_out, labelled, judge)


@effect("step_labels", "labels above zero, of right prefixes", margin=0.4, against="of wrong prefixes")
def step_labels_tell_right_prefixes_from_wrong_ones(home: Path, seed: int) -> Measured:
    labelled = world(seed).labelled
    shares: dict[bool, list[bool]] = {True: [], False: []}
    for row in read_trajectories(labelled):
        truth = steps_right(row["reference"], "".join(row["completions"]))
        for right, label in zip(truth, row["labels"], strict=False):
            shares[right].append(label > 0)
    wrong, right = (sum(shares[side]) / len(shares[side]) for side in (False, True))
    return Measured(wrong, right, record(labelled))


def steps_right(reference: str, written: str) -> list[bool]:
    """Whether each prefix of what was written is one of the right answer."""
    steps, answer = (text.split(chains.SEPARATOR) for text in (written, reference))
    return [steps[:depth] == answer[:depth] for depth in range(1, len(steps) + 1)]


@effect(
    "process_reward_model",
    "AUC of steps of unseen problems",
    margin=0.15,
    against="a step's depth alone (chance is .5)",
)
def process_reward_model_tells_steps_of_unseen_problems_apart(home: Path, seed: int) -> Measured:
    made = record(world(seed).judge)
    return Measured(made.metrics["auc_by_depth_alone"], made.metrics["auc"], made)


def searched(home: Path, seed: int, method: str, problems: Path, **judge: Path) -> Path:
    settings = {**WRITING, "samples": BUDGET, "method": method, "seed": seed + 5}
    return run("search", home / method, settings, policy=world(seed).base, problems=problems, **judge)


def against_majority(home: Path, seed: int, method: str) -> Measured:
    """Accuracy on held-out problems, each with the same number of full-length samples."""
    here = world(seed)
    voted = searched(home, seed, "majority", here.held_out)
    guided = searched(home, seed, method, here.held_out, process_reward_model=here.judge)
    return Measured(record(voted).metrics["accuracy"], record(guided).metrics["accuracy"], record(guided))


@effect("beam", "accuracy on unseen problems, 8 samples each", margin=0.1, against="majority vote")
def beam_search_beats_the_majority_at_equal_budget(home: Path, seed: int) -> Measured:
    return against_majority(home, seed, "beam")


@effect("best_of_n", "accuracy on unseen problems, 8 samples each", margin=0.05, against="majority vote")
def best_of_n_beats_the_majority_at_equal_budget(home: Path, seed: int) -> Measured:
    return against_majority(home, seed, "best_of_n")


@effect("weighted_majority", "accuracy on unseen problems, 8 samples each", margin=0.05, against="majority vote")
def weighted_votes_beat_plain_ones_at_equal_budget(home: Path, seed: int) -> Measured:
    return against_majority(home, seed, "weighted_majority")


@effect("sft", "pass@1 of unseen problems, trained on traces of beam search", margin=0.3)
def training_on_traces_hands_the_scaffold_over_to_the_policy(home: Path, seed: int) -> Measured:
    here = world(seed)
    traces = searched(home, seed, "beam", here.problems, process_reward_model=here.judge)
    right = run("verify", home / "right", {"min_reward": 1.0}, trajectories=traces)
    settings = {"batch_size": 32, "learning_rate": 1e-3, "max_steps": 40, "max_length": 64, "seed": seed}
    trained = run("sft", home / "sft", settings, init=here.base, data=right)
    before, after = (pass_at(p, here.held_out, home / f"{p.name}-evaluation", 16, 12) for p in (here.base, trained))
    return Measured(before["pass_at_1"], after["pass_at_1"], record(trained))
