"""The page of a decision to keep a step or roll it back."""

from __future__ import annotations

from typing import Literal

from posttrain.diagnosis.compare import Comparison
from posttrain.diagnosis.keep import Fate, Judgement
from posttrain.report.evaluation import change_blocks
from posttrain.report.numbers import plain
from posttrain.report.page import Block, Section, Verdict

TONE: dict[Fate, Literal["good", "bad", "undecided"]] = {
    Fate.KEPT: "good",
    Fate.PROVISIONAL: "undecided",
    Fate.ROLLED_BACK: "bad",
}


def keep_blocks(candidate: str, judged: Judgement | None, comparison: Comparison | None) -> list[Block]:
    """The decision, and how the candidate compares with the best so far; or that no step was taken."""
    if judged is None or comparison is None:
        return [Verdict("No step was taken", "neutral", "The policy is handed on as it is.")]
    return [
        Verdict(f"{plain(candidate)} is {judged.fate}", TONE[judged.fate], judged.reason),
        Section("Against the best so far", change_blocks({"all": comparison, **comparison.slices})),
    ]
