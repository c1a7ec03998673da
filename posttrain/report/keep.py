"""The page of a decision to keep a step or roll it back."""

from __future__ import annotations

from posttrain.diagnosis.compare import Comparison
from posttrain.diagnosis.keep import Kept
from posttrain.report.evaluation import change_blocks
from posttrain.report.numbers import plain
from posttrain.report.page import Block, Section, Verdict


def keep_blocks(candidate: str, kept: Kept | None, comparison: Comparison | None) -> list[Block]:
    """The decision, and what the step changed; or that no step was taken."""
    if kept is None or comparison is None:
        return [Verdict("No step was taken", "neutral", "The policy is handed on as it is.")]
    verdict = Verdict(
        f"{plain(candidate)} is {'kept' if kept.kept else 'rolled back'}",
        "good" if kept.kept else "bad",
        kept.reason,
    )
    return [verdict, Section("What the step changed", change_blocks({"all": comparison, **comparison.slices}))]
