"""The page of a comparison of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from posttrain.diagnosis.compare import Comparison
from posttrain.diagnosis.intervals import Interval
from posttrain.report.charts import Intervals
from posttrain.report.numbers import plain
from posttrain.report.page import Block, Section, Table, Verdict


class Ranked(Protocol):
    """What the page needs of a candidate."""

    @property
    def name(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def against_base(self) -> Comparison: ...
    @property
    def behind_best(self) -> Interval | None: ...


def contrast_blocks(verdict: str, candidates: Sequence[Ranked]) -> list[Block]:
    """The ranking, best first."""
    k = candidates[0].against_base.k
    rows = [
        (
            plain(c.name),
            str(c.against_base.pass_1.after),
            str(c.against_base.pass_1.delta),
            str(c.against_base.pass_k.after),
            str(c.behind_best) if c.behind_best else None,
            str(c.against_base.support.lost.beyond_luck),
            c.seconds,
        )
        for c in candidates
    ]
    gains = [(plain(c.name), c.against_base.pass_1.delta) for c in candidates]
    columns = ["candidate", "pass@1", "gain", f"pass@{k}", "behind the best", "attrition", "seconds"]
    decided = verdict != "undecided"
    return [
        Verdict(
            f"{plain(verdict)} is best" if decided else "Undecided: the best is not clearly better than the next",
            "good" if decided else "undecided",
            f"{len(candidates)} candidates on {candidates[0].against_base.problems} problems",
        ),
        Section(
            "Candidates",
            [
                Intervals("Gain in pass@1 over the base", [(n, i.estimate, i.low, i.high) for n, i in gains]),
                Table(columns, rows, "Paired differences with 95% intervals; seconds of everything a candidate took."),
            ],
        ),
    ]
