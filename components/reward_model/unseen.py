"""How a reward model ranks answers that it was not trained on: the only figure that says whether it judges."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.artifacts.rows import Row
from posttrain.artifacts.trajectories import problem_of
from posttrain.diagnosis.intervals import Interval, bootstrap
from posttrain.diagnosis.selection import agreement_within
from posttrain.report.page import Block, Section, Table


@dataclass(frozen=True)
class Answer:
    """An answer of which somebody said whether it is the better (or right) one."""

    problem: str
    prompt: Any
    completion: Any
    right: bool


@dataclass(frozen=True)
class Unseen:
    """Within problems: a score means something against another for the same prompt only."""

    auc: Interval  # chance that a right answer is scored above a wrong one, problems resampled
    accuracy: Interval  # share of such pairs that are, ties not counted
    problems: int
    answers: int


def answers_of(rows: Iterable[Row]) -> list[Answer]:
    """The answers of preference rows (chosen, rejected) or of scored rows (right: the full reward)."""
    found = []
    for row in rows:
        if "chosen" in row:
            sides = [(row["chosen"], True), (row["rejected"], False)]
        else:
            sides = [(row["completion"], row["reward"] == 1)] if row.get("reward") is not None else []
        found += [Answer(problem_of(row), row["prompt"], completion, right) for completion, right in sides]
    return found


def with_contrast(answers: Sequence[Answer]) -> list[Answer]:
    """Those of problems that have a right one and a wrong one."""
    sides = [{answer.problem for answer in answers if answer.right is side} for side in (True, False)]
    return [answer for answer in answers if answer.problem in sides[0] & sides[1]]


def split(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and those of a random share of the problems to judge by."""
    problems = sorted({problem_of(row) for row in rows})
    kept_back = set(random.Random(seed).sample(problems, min(round(share * len(problems)), len(problems) - 1)))
    sides: tuple[list[Row], list[Row]] = [], []
    for row in rows:
        sides[problem_of(row) in kept_back].append(row)
    return sides


def scores_of(reward_model: Path, answers: Sequence[Answer]) -> NDArray[np.float64]:
    """What a finished reward model says of each answer. Shape (N,)."""
    from posttrain.generation.scoring import Text, reward_scores

    return reward_scores(reward_model, [Text(answer.prompt, answer.completion) for answer in answers])


def judged(answers: Sequence[Answer], scores_N: NDArray[np.float64], seed: int) -> Unseen:
    """Scores against what was said of the answers; each of their problems has both kinds."""
    _, problem_N = np.unique([answer.problem for answer in answers], return_inverse=True)
    right_N = np.array([answer.right for answer in answers])
    # Ties count as half for the AUC; ranking them against the answer leaves the pairs that were won outright.
    strict_N = np.lexsort((right_N, -scores_N)).argsort().astype(np.float64) * -1
    auc_M = agreement_within(problem_N, scores_N, right_N).auc_M
    won_M = agreement_within(problem_N, strict_N, right_N).auc_M
    return Unseen(bootstrap(auc_M, seed), bootstrap(won_M, seed), len(auc_M), len(answers))


def ensemble_metrics(answers: Sequence[Answer], members_KN: NDArray[np.float64], seed: int) -> dict[str, float]:
    """How the members of an ensemble, this one first, differ, and what their mean is worth (2312.09244).

    Scores of two reward models have no common unit: each is standardised over the answers first.
    """
    standard_KN = members_KN - members_KN.mean(axis=1, keepdims=True)
    standard_KN /= np.maximum(standard_KN.std(axis=1, keepdims=True), 1e-12)
    mean = judged(answers, standard_KN.mean(axis=0), seed)
    return {
        "members/disagreement": float(standard_KN.std(axis=0).mean()),
        "members/auc": mean.auc.estimate,
        "members/auc_low": mean.auc.low,
        "members/auc_high": mean.auc.high,
    }


def unseen_metrics(found: Unseen) -> dict[str, float]:
    """Both figures with the ends of their intervals."""
    named = {"unseen/auc": found.auc, "unseen/accuracy": found.accuracy}
    return {
        f"{name}{end}": value
        for name, interval in named.items()
        for end, value in (("", interval.estimate), ("_low", interval.low), ("_high", interval.high))
    }


def unseen_blocks(found: Unseen) -> list[Block]:
    """The section of the stage's page."""
    rows = [("AUC within problems", str(found.auc)), ("pairs ranked rightly", str(found.accuracy))]
    note = f"{found.answers} answers to {found.problems} problems that it was not trained on; .500 is chance."
    return [Section("As a judge", [Table(["what", "value"], rows, note)])]
