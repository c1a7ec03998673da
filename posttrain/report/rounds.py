"""Rounds of an improvement: what was measured, which rule held, which step was taken."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.record import Record
from posttrain.diagnosis.recommend import Recommendation, read_recommendation
from posttrain.recipes.compose import step
from posttrain.report.page import Block, Section, Table

ROUND_COLUMNS = ["round", "policy", "pass@1", "pass@K", "what held it back", "rule", "next step"]


def round_rows(recommendations: Sequence[Artifact]) -> list[list[str | int]]:
    """One row a round, in order."""
    ordered = sorted(recommendations, key=lambda artifact: artifact.record.started)
    return [_row(number, artifact) for number, artifact in enumerate(ordered, start=1)]


def _row(number: int, artifact: Artifact) -> list[str | int]:
    found: Recommendation = read_recommendation(artifact.path)
    diagnosis = artifact.record.parent("diagnosis")
    rates = [_rate(diagnosis, name) for name in ("pass_1", "pass_k")]
    doubt = "undecided: " if found.verdict == "undecided" else ""
    taken = step(found.next_step).title if found.next_step else "stop"
    policy = _policy_name(diagnosis)
    return [number, policy, *rates, found.diagnosis, f"{found.rule} {found.title}", doubt + taken]


def _rate(diagnosis: Record | None, name: str) -> str:
    return f"{diagnosis.metrics[name]:.3f}" if diagnosis and name in diagnosis.metrics else ""


def _policy_name(diagnosis: Record | None) -> str:
    """Its evaluation knows the policy's name."""
    evaluations = [] if diagnosis is None else [diagnosis.ancestors.get(ref.id) for ref in diagnosis.parents]
    return next((str(e.facts["policy_name"]) for e in evaluations if e and "policy_name" in e.facts), "")


def round_blocks(recommendations: Sequence[Artifact]) -> list[Block]:
    """The rounds as a table; nothing if there were none."""
    if not recommendations:
        return []
    return [Section("Rounds", [Table(ROUND_COLUMNS, round_rows(recommendations))])]
