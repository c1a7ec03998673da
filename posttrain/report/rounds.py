"""Rounds of an improvement: what was measured, which rule held, which step was taken, what became of it."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.record import Record
from posttrain.diagnosis.recommend import Recommendation, read_recommendation
from posttrain.recipes.compose import step
from posttrain.report.numbers import plain
from posttrain.report.page import Block, Section, Table
from posttrain.taxonomy import Kind

ROUND_COLUMNS = ["round", "policy", "pass@1", "pass@K", "what held it back", "rule", "step", "outcome"]


def round_rows(recommendations: Sequence[Artifact], result: str = "") -> list[list[str | int]]:
    """One row a round, in order.

    Args:
        result: digest of the policy that the rounds ended with, if they did.
    """
    ordered = sorted(recommendations, key=lambda artifact: artifact.record.started)
    found = [read_recommendation(artifact.path) for artifact in ordered]
    went_on = [*(later.policy_digest for later in found[1:]), result]
    return [
        [number, *_row(artifact, each), _outcome(each, after)]
        for number, (artifact, each, after) in enumerate(zip(ordered, found, went_on, strict=True), start=1)
    ]


def _row(artifact: Artifact, found: Recommendation) -> list[str]:
    diagnosis = artifact.record.parent("diagnosis")
    rates = [_rate(diagnosis, name) for name in ("pass_1", "pass_k")]
    doubt = "undecided: " if found.verdict == "undecided" else ""
    taken = step(found.next_step).title if found.next_step else "stop"
    return [
        _policy_name(artifact.record, found.policy_digest),
        *rates,
        found.diagnosis,
        f"{found.rule} {found.title}",
        doubt + taken,
    ]


def _outcome(found: Recommendation, after: str) -> str:
    """What became of the step, from the policy that was gone on from."""
    if not found.next_step or not after:
        return ""
    return "rolled back" if after in found.explored else "kept"


def _rate(diagnosis: Record | None, name: str) -> str:
    return f"{diagnosis.metrics[name]:.3f}" if diagnosis and name in diagnosis.metrics else ""


def _policy_name(recommendation: Record, digest: str) -> str:
    """The policy's evaluation, somewhere in the lineage, knows its name."""
    evaluations = [record for record in recommendation.ancestors.values() if record.kind is Kind.EVALUATION]
    names = [str(record.facts["policy_name"]) for record in evaluations if record.facts.get("policy") == digest]
    return plain(names[0]) if names else ""


def round_blocks(recommendations: Sequence[Artifact], result: str = "") -> list[Block]:
    """The rounds as a table; nothing if there were none."""
    if not recommendations:
        return []
    return [Section("Rounds", [Table(ROUND_COLUMNS, round_rows(recommendations, result))])]
