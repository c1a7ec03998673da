"""Regret of every way to choose a sequence, from the stored rows alone.

A sequence is worth the mean of pass@1 and pass@64 on the exam half, unless it cost the anchors: then it is worth what
the base was. The oracle is the best sequence that was run. The same bar for all, and the exam decided nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.diagnosis.diagnosis import Diagnosis
from posttrain.diagnosis.intervals import Interval
from posttrain.diagnosis.keep import ANCHOR_LOSS, BREADTH, Fate, Judgement, decide_fate
from posttrain.diagnosis.passk import pass_at_k
from posttrain.diagnosis.recommend import recommend
from posttrain.diagnosis.rules import RuleTable
from posttrain.recipes.compose import step
from study.worlds import LONGEST

K = 64
ROUNDS = 6  # of the loop: as many steps as it may try, of which it keeps at most three

Path_ = tuple[str, ...]


@dataclass(frozen=True)
class Tree:
    """All sequences of one world with one seed."""

    world: str
    seed: int
    rows: dict[Path_, dict[str, Any]]

    def rate(self, path: Path_, k: int, part: str = "exam", half: int | None = None) -> float:
        """pass@k of a sequence's policy, of every second problem if a half (0 or 1) is named."""
        counts = self.rows[path][part]
        values_M = pass_at_k(counts["scored"], counts["correct"], k)
        return float(np.nanmean(values_M if half is None else values_M[half::2]))

    def kept(self, path: Path_) -> bool:
        """Whether the anchors were kept."""
        if "anchors" not in self.rows[path]:
            return True
        return self.rate(path, 1, "anchors") >= self.rate((), 1, "anchors") - ANCHOR_LOSS

    def worth(self, path: Path_, half: int | None = None) -> float:
        """What a sequence is worth."""
        path = path if self.kept(path) else ()
        return (self.rate(path, 1, half=half) + self.rate(path, K, half=half)) / 2

    def signals(self, path: Path_) -> dict[str, Interval]:
        """What the rules saw of a sequence's policy, on the probe half."""
        return Diagnosis.model_validate(self.rows[path]["diagnosis"]).of_slice()

    def judged(self, path: Path_, best: Path_) -> Judgement:
        """What `improve` would have done with a sequence's policy, by what the rules saw.

        The rows have no counts of the probe half: estimates of differences are exact, but an interval is at hand only
        where the best so far is what the last step started from.
        """
        after, before = self.signals(path), self.signals(best)
        one, breadth = (after[name].estimate - before[name].estimate for name in ("pass_1", "pass_k"))
        worth = (1 - BREADTH) * one + BREADTH * breadth
        change = after["pass_k_change"] if best == path[:-1] else Interval(breadth, -1, 1)
        return decide_fate(Interval(worth, -1, 1), change, after.get("anchor_change"), step(path[-1]).role)

    def taken(self) -> list[Path_]:
        """Every sequence that could be run."""
        return [path for path, row in self.rows.items() if "failed" not in row]

    def walk(self, path: Path_) -> Path_:
        """As much of a wished-for sequence as there is: steps that do not apply are left out."""
        here: Path_ = ()
        for name in path:
            if "failed" not in self.rows.get((*here, name), {"failed": ""}):
                here = (*here, name)
        return here

    def seconds(self, path: Path_) -> float:
        """Compute that a sequence's stages took."""
        return float(sum(self.rows[path[:n]]["step_seconds"] for n in range(1, len(path) + 1)))


def load(results: Path) -> list[Tree]:
    """Every stored tree."""
    trees = []
    for file in sorted(results.glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        trees.append(Tree(rows[0]["world"], rows[0]["seed"], {tuple(row["path"]): row for row in rows}))
    return trees


@dataclass(frozen=True)
class Loop:
    """A walk of `improve`: where it ended, every policy that it made, and what was said and done in each round."""

    path: Path_
    made: list[Path_]
    said: list[dict[str, Any]]


def improved(tree: Tree, rounds: int = ROUNDS, table: RuleTable | None = None) -> Loop:
    """The loop of `improve` on a tree: diagnose, recommend, take the step, measure, keep or roll back."""
    best: Path_ = ()
    here: Path_ = ()
    tried: dict[Path_, list[str]] = {(): []}
    made, said = [], []
    for _ in range(rounds):
        diagnosis = Diagnosis.model_validate(tree.rows[here]["diagnosis"])
        found, _uses = recommend(diagnosis, here, table=table, refused=tried[here])
        turn = {"at": here, "rule": found.rule, "verdict": found.verdict, "next": found.next_step}
        following = (*here, found.next_step)
        if not found.next_step or "failed" in tree.rows.get(following, {"failed": ""}):
            said.append(turn)
            break
        tried[here].append(found.next_step)
        made.append(following)
        judgement = tree.judged(following, best)
        said.append(turn | {"fate": judgement.fate, "why": judgement.reason})
        best = following if judgement.fate is Fate.KEPT else best
        # No sequence of the study is longer, so one that still needs mending then is given up.
        going = judgement.fate is Fate.PROVISIONAL and len(following) < LONGEST
        here = following if going else best
        tried.setdefault(here, [])
        if len(here) == LONGEST:
            break
    return Loop(best, made, said)


def unrevised(tree: Tree, table: RuleTable | None = None) -> Path_:
    """The rules alone: every recommended step is taken, and none taken back."""
    path: Path_ = ()
    while len(path) < LONGEST:
        found, _uses = recommend(Diagnosis.model_validate(tree.rows[path]["diagnosis"]), path, table=table)
        following = (*path, found.next_step)
        if not found.next_step or "failed" in tree.rows.get(following, {"failed": ""}):
            break
        path = following
    return path


FIXED: dict[str, Path_] = {
    "SFT": ("sft",),
    "SFT → RL": ("sft", "rl"),
    "SFT with replay → RL": ("sft_replay", "rl"),
    "RFT": ("rft",),
    "RFT → RL": ("rft", "rl"),
    "RL only": ("rl",),
    "distillation → RL": ("imitate", "rl"),
    "distillation → OPD → RL": ("imitate", "distill", "rl"),
    "OPD": ("distill",),
    "SFT with replay → distillation → RL": ("sft_replay", "imitate", "rl"),
}


def static_tree(tree: Tree) -> Path_:
    """A tree that asks only what data there is: demonstrations → SFT, a teacher → distillation, a verifier → RL."""
    steps = {path[0] for path in tree.rows if len(path) == 1}
    first = "sft" if "sft" in steps else "imitate" if "imitate" in steps else ""
    return tree.walk((first, "rl") if first else ("rl",))


def oracle(tree: Tree) -> Path_:
    """The best sequence."""
    return max(tree.taken(), key=tree.worth)


def worth_of_oracle(tree: Tree) -> float:
    """What the best sequence is worth: the largest of many noisy measurements, so a little more than it is."""
    return tree.worth(oracle(tree))


def worth_of_blind_oracle(tree: Tree) -> float:
    """The same without that luck: chosen on every second exam problem and scored on the others, both ways round."""
    chosen = [max(tree.taken(), key=lambda path, half=half: tree.worth(path, half)) for half in (0, 1)]
    return float(np.mean([tree.worth(path, 1 - half) for half, path in enumerate(chosen)]))


def chance(tree: Tree) -> float:
    """What a sequence drawn at random is worth."""
    return float(np.mean([tree.worth(path) for path in tree.taken() if path]))


def relative(regret: np.ndarray, gain: np.ndarray) -> float:
    """Mean regret as a share of the oracle's mean gain."""
    return float(regret.mean() / gain.mean()) if gain.mean() > 0 else 0.0


def relative_interval(regret: np.ndarray, gain: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95% interval of `relative`, trees (world and seed) resampled."""
    if len(regret) < 2:
        return (float("nan"), float("nan"))
    drawn = np.random.default_rng(0).integers(len(regret), size=(draws, len(regret)))
    bottom = gain[drawn].mean(1)
    shares = np.divide(regret[drawn].mean(1), bottom, out=np.zeros(draws), where=bottom > 0)
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)
