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
    def most(self) -> bool: ...
    @property
    def measured(self) -> str: ...
    @property
    def wanted(self) -> str: ...
    @property
    def outcome(self) -> str: ...


def gate_blocks(verdict: str, reason: str, rules: Sequence[AppliedRule]) -> list[Block]:
    """The verdict, a chart and a table of the rules."""
    rows = [(rule.what, rule.measured, rule.wanted, rule.outcome) for rule in rules]
    differences = [(rule.what, rule.estimate, rule.low, rule.high) for rule in rules if not rule.most]
    return [
        Verdict(TEXT[verdict], TONE[verdict], reason),
        Section(
            "Rules",
            [
                Intervals("Candidate minus champion", differences),
                Table(["rule", "measured", "must be", "outcome"], rows, "Paired, with 95% intervals."),
            ],
        ),
    ]
