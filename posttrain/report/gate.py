"""The gate's page: the verdict and every rule's interval against its bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from posttrain.report.charts import Intervals
from posttrain.report.page import Block, Section, Table, Verdict

TONE: dict[str, Literal["good", "bad", "undecided"]] = {"pass": "good", "fail": "bad", "undecided": "undecided"}
TEXT = {
    "pass": "The candidate may be registered",
    "fail": "The candidate is not registered",
    "undecided": "Undecided: the candidate is not registered",
}


class AppliedRule(Protocol):
    """What the page needs of a gate's rule."""

    @property
    def what(self) -> str: ...
    @property
    def estimate(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def bound(self) -> float: ...
    @property
    def outcome(self) -> str: ...


def gate_blocks(verdict: str, reason: str, rules: Sequence[AppliedRule]) -> list[Block]:
    """The verdict, a chart and a table of the rules."""
    rows = [(r.what, f"{r.estimate:+.3f} [{r.low:+.3f}, {r.high:+.3f}]", f"> {r.bound:+.3f}", r.outcome) for r in rules]
    return [
        Verdict(TEXT[verdict], TONE[verdict], reason),
        Section(
            "Rules",
            [
                Intervals("Candidate minus champion", [(r.what, r.estimate, r.low, r.high) for r in rules]),
                Table(["rule", "difference", "must be", "outcome"], rows, "Paired differences with 95% intervals."),
            ],
        ),
    ]
