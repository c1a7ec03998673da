"""From where a right answer can still be reached: the survey's prefix reachability, from the rollouts of step labels.

A right continuation from a prefix shows that it is reachable; none among so many only that it is not likely to be. A
prefix is also reachable if a longer one of the same solution is. Suffixes: M problem, K depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from posttrain.diagnosis.intervals import Interval, bootstrap_columns, zero_success_bound
from posttrain.report.charts import LineChart, Series
from posttrain.report.page import Block, Section, Table, Verdict

_LISTED = 8  # depths among the metrics
_SHOWN = 32  # depths on the page


class Path(NamedTuple):
    """One solution: the share of right continuations after 0, 1, 2 … steps; of a finished one last its own verdict."""

    problem: str
    labels: list[float]
    finished: bool

    @property
    def reachable(self) -> list[bool]:
        """Whether a right answer was reached from there or from later on."""
        return [best > 0 for best in accumulate(reversed(self.labels), max)][::-1]

    @property
    def lost_at(self) -> int | None:
        """The first step after which nothing right was reached; 0: not even before it; None: never lost."""
        return next((depth for depth, reached in enumerate(self.reachable) if not reached), None)


def by_depth(paths: Sequence[Path], seed: int) -> list[Interval]:
    """The share of solutions from which a right answer is reachable after 0, 1, 2 … steps; problems are resampled."""
    rows = {problem: row for row, problem in enumerate(dict.fromkeys(path.problem for path in paths))}
    depths = max(len(path.labels) for path in paths)
    sums_MK, counts_MK = np.zeros((len(rows), depths)), np.zeros((len(rows), depths))
    for path in paths:
        sums_MK[rows[path.problem], : len(path.labels)] += path.reachable
        counts_MK[rows[path.problem], : len(path.labels)] += 1
    with np.errstate(invalid="ignore"):
        return bootstrap_columns(sums_MK / counts_MK, seed)


def reachability_metrics(paths: Sequence[Path], seed: int) -> dict[str, float]:
    """Labels, and reachability after the first few steps."""
    labels = [label for path in paths for label in path.labels[1:]]
    lost = [path.lost_at for path in paths if path.lost_at]
    return {
        "mean_label": float(np.mean(labels)),
        "right_steps": float(np.mean([label > 0 for label in labels])),
        "lost_share": len(lost) / len(paths),
        **({"lost_at_step": float(np.mean(lost))} if lost else {}),
        **{f"reachable_after_{depth}": share.estimate for depth, share in enumerate(by_depth(paths, seed)[:_LISTED])},
    }


def reachability_blocks(paths: Sequence[Path], rollouts: int, seed: int) -> list[Block]:
    """Reachability by depth, and where it is lost."""
    shares = by_depth(paths, seed)[:_SHOWN]
    lost = [path.lost_at for path in paths]
    verdict = Verdict(
        f"A right answer is reachable before the first step of {shares[0]} of the solutions, after the last of "
        f"{np.mean([path.reachable[-1] for path in paths]):.3f}",
        "neutral",
        f"{rollouts} continuations a prefix: one that leads on rightly with probability "
        f"{zero_success_bound(rollouts):.2f} or less may pass for a dead end. 95% intervals over problems.",
    )
    curve = [(float(depth), share.estimate) for depth, share in enumerate(shares)]
    band = [(float(depth), share.low, share.high) for depth, share in enumerate(shares)]
    rows = [
        (depth, sum(len(path.labels) > depth for path in paths), str(share), lost.count(depth))
        for depth, share in enumerate(shares)
    ]
    chart = LineChart("Prefix reachability", "steps", "share", [Series("reachable", curve, band)], y_range=(0.0, 1.0))
    caption = "Lost: nothing right is reached from this step on. Longer solutions alone make up the later rows."
    table = Table(["after steps", "solutions", "reachable", "lost here"], rows, caption)
    return [verdict, Section("Prefix reachability", [chart, table])]
