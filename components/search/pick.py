"""Which of a problem's samples a scaffold hands out, and what that gains over the policy by itself."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from posttrain.diagnosis.intervals import Interval, bootstrap_columns, paired_difference
from posttrain.report.page import Block, Section, Table, Verdict
from posttrain.verifiers.verdict import Verdict as Judgement


def vote(answers: Sequence[str | None], weights: Sequence[float]) -> int | None:
    """The heaviest sample of the answer with the largest summed weight; the first of equals. None without an answer."""
    totals: dict[str, float] = defaultdict(float)
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals[answer] += weight
    if not totals:
        return None
    chosen = max(totals, key=lambda answer: totals[answer])
    return max((i for i, answer in enumerate(answers) if answer == chosen), key=lambda i: weights[i])


def best(scores: Sequence[float]) -> int:
    """The highest score; the first of equals."""
    return max(range(len(scores)), key=lambda index: scores[index])


def softmax(scores: Sequence[float]) -> list[float]:
    """A reward model's scores mean something against each other only, and may be negative; as weights of a vote."""
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return [weight / sum(weights) for weight in weights]


@dataclass(frozen=True)
class Gap:
    """What the scaffold gains: its pick against the policy's own samples on the same problems."""

    accuracy: Interval
    pass_at_1: Interval
    oracle: Interval
    """Pass@n: what a perfect pick among n samples would reach."""
    gap: Interval
    """Accuracy less pass@1, paired by problem."""

    @classmethod
    def of(cls, picked: Sequence[Judgement], samples: Sequence[Sequence[Judgement]], seed: int) -> Gap:
        """Problems whose pick cannot be scored are left out of accuracy and gap, samples likewise."""
        right_MN = [[float(v.score == 1) for v in verdicts if v.score is not None] for verdicts in samples]
        single_M = np.array([np.mean(right_N) if right_N else np.nan for right_N in right_MN])
        oracle_M = np.array([max(right_N, default=np.nan) for right_N in right_MN])
        picked_M = np.array([np.nan if v.score is None else float(v.score == 1) for v in picked])
        accuracy, single, oracle = bootstrap_columns(np.column_stack([picked_M, single_M, oracle_M]), seed)
        return cls(accuracy, single, oracle, paired_difference(single_M[:, None], picked_M[:, None], seed)[0])

    def metrics(self) -> dict[str, float]:
        found = {
            "accuracy": self.accuracy.estimate,
            "pass_at_1": self.pass_at_1.estimate,
            "oracle": self.oracle.estimate,
            "gap": self.gap.estimate,
            "gap_low": self.gap.low,
            "gap_high": self.gap.high,
        }
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def blocks(self, method: str, samples: int, spent: float, spent_plainly: float) -> list[Block]:
        """
        Args:
            spent: tokens sampled a problem, by the search; `spent_plainly` by n samples.
        """
        decided: Literal["good", "bad", "undecided"] = (
            "good" if self.gap.low > 0 else "bad" if self.gap.high < 0 else "undecided"
        )
        verdict = Verdict(
            f"{method} is right on {self.accuracy} of the problems, a single sample on {self.pass_at_1}",
            decided,
            f"Scaffold gap {self.gap}: 95% interval, paired by problem. Training on traces can hand over this much.",
        )
        rows = [
            ("a single sample (pass@1)", str(self.pass_at_1), round(spent_plainly / samples, 1)),
            (method, str(self.accuracy), round(spent, 1)),
            (f"a perfect pick of {samples} (pass@{samples})", str(self.oracle), round(spent_plainly, 1)),
        ]
        return [verdict, Section("Scaffold gap", [Table(["", "right", "tokens a problem"], rows)])]
