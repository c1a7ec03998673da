"""How well a process reward model tells right steps from wrong ones, on problems that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posttrain.diagnosis.intervals import CONSTANT, DRAWS, FEWEST_TO_RESAMPLE, LEVEL, RATE, Interval, unseen_bounds
from posttrain.diagnosis.selection import agreement_auc
from posttrain.report.page import Block, Section, Table, Verdict

CHANCE = 0.5


@dataclass(frozen=True)
class Judged:
    """Held-out steps, one an entry. Suffix: N step."""

    problem_N: NDArray[np.int64]
    depth_N: NDArray[np.int64]
    score_N: NDArray[np.float64]  # P(right)
    right_N: NDArray[np.bool_]

    def auc(self, seed: int) -> Interval:
        """Chance that a right step is scored above a wrong one; steps stand in problems, so problems are resampled.

        Resampling cannot imagine what it has not seen, and one problem is always itself: of a few nothing is known, and
        where every draw agrees the bounds are those of `diagnosis.intervals`.
        """
        estimate = agreement_auc(self.score_N, self.right_N)
        members = [np.flatnonzero(self.problem_N == problem) for problem in np.unique(self.problem_N)]
        if np.isnan(estimate):
            return Interval(estimate, estimate, estimate)
        if len(members) < FEWEST_TO_RESAMPLE:
            return Interval(estimate, *RATE)
        chance, drawn = np.random.default_rng(seed), []
        for _ in range(DRAWS):
            steps = np.concatenate([members[m] for m in chance.integers(len(members), size=len(members))])
            drawn.append(agreement_auc(self.score_N[steps], self.right_N[steps]))
        if np.nanmax(drawn) - np.nanmin(drawn) < CONSTANT:
            return Interval(estimate, *unseen_bounds(np.full(len(members), estimate), LEVEL, RATE))
        low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(estimate, float(low), float(high))


def judged_metrics(judged: Judged, seed: int) -> dict[str, float]:
    """AUC and accuracy beside what they have to beat."""
    auc, share = judged.auc(seed), float(judged.right_N.mean())
    return {
        "auc": auc.estimate,
        "auc_low": auc.low,
        "auc_high": auc.high,
        "auc_by_depth_alone": agreement_auc(-judged.depth_N.astype(np.float64), judged.right_N),
        "accuracy": float(((judged.score_N >= CHANCE) == judged.right_N).mean()),
        "base_rate": max(share, 1 - share),
        "right_steps": share,
    }


def judged_blocks(judged: Judged, metrics: dict[str, float]) -> list[Block]:
    """The verdict, and a row a depth."""
    auc = Interval(metrics["auc"], metrics["auc_low"], metrics["auc_high"])
    base = f"accuracy {metrics['accuracy']:.3f}, always the commoner answer {metrics['base_rate']:.3f}"
    if not auc.known:
        verdict = Verdict("No telling: all held-out steps are right, or all wrong", "undecided", base)
    elif auc.low <= CHANCE:
        text = f"Cannot be told from chance: AUC {auc} on held-out problems"
        verdict = Verdict(text, "bad", f"{base}. Search or RL by it would follow noise: more problems, or more steps.")
    else:
        verdict = Verdict(f"Tells right steps from wrong ones: AUC {auc} on held-out problems", "good", base)
    return [verdict, Section("By depth", [_depths(judged)])]


def _depths(judged: Judged) -> Table:
    rows: list[Sequence[str | int | float | None]] = []
    for depth in np.unique(judged.depth_N)[:16]:
        at_N = judged.depth_N == depth
        auc = agreement_auc(judged.score_N[at_N], judged.right_N[at_N])
        known = None if np.isnan(auc) else round(auc, 3)
        rows.append((int(depth), int(at_N.sum()), round(float(judged.right_N[at_N].mean()), 3), known))
    return Table(
        ["step", "held out", "right", "AUC"], rows, "Late steps of wrong solutions are wrong whatever they say."
    )
