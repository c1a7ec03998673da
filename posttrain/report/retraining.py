"""Pages of a retraining: what it set out from, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping

from posttrain.data.versions import Versions
from posttrain.registry.retraining import Outcome
from posttrain.report.page import Block, Facts, Section, Table, Verdict

_TONES = {"registered": "good", "fail": "bad", "ended early": "bad", "undecided": "undecided"}
_TEXT = {
    "registered": "A new champion is registered",
    "not champion": "Registered, and not the champion",
    "fail": "The challenger is not better",
    "undecided": "Undecided: nothing is registered",
    "nothing new": "Nothing new to learn from",
    "ended early": "The run ended without a decision",
}
_SHOWN = 20  # versions, the newest first


def found_blocks(new: bool, reason: str, inputs: Mapping[str, str], versions: Versions) -> list[Block]:
    """What is to be learned from, or why there is nothing."""
    newest = list(reversed(versions.ready))[:_SHOWN]
    rows = [(version.name, ", ".join(sorted(version.inputs)) or "nothing") for version in newest]
    rows += [(name, "not whole yet: its marker is missing") for name in versions.unready[-_SHOWN:]]
    verdict = Verdict("There is new data" if new else _TEXT["nothing new"], "good" if new else "neutral", reason)
    told: list[Block] = [Facts([(name, uri or None) for name, uri in inputs.items()])] if inputs else []
    table: list[Block] = [Section("Versions", [Table(["version", "has"], rows)])] if rows else []
    return [verdict, *told, *table]


def concluded_blocks(outcome: Outcome, text: str, sent: str) -> list[Block]:
    """What came of it, and who was told."""
    return [
        Verdict(_TEXT[outcome.event], _TONES.get(outcome.event, "neutral"), outcome.reason),  # type: ignore[arg-type]
        Facts([("data", outcome.data or None), ("run", outcome.run), ("message", text), ("webhook", sent)]),
    ]
