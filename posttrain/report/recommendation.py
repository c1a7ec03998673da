"""The page of a recommendation: the rule and its evidence, the steps with their settings, what would change it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from posttrain.diagnosis.recommend import Recommendation
from posttrain.recipes.compose import step
from posttrain.report.page import Block, Section, Table, Verdict

TONE: dict[str, Literal["good", "neutral", "undecided"]] = {"go": "good", "stop": "neutral", "undecided": "undecided"}


def headline(found: Recommendation) -> str:
    """One line: what to do."""
    steps = " → ".join(step(name).title for name in found.steps) or "Stop"
    if found.verdict == "undecided":
        others = ", ".join(a.steps[0] if a.steps else "stop" for a in found.alternatives)
        return f"Undecided: {steps}, or {others}"
    return steps


def recommendation_blocks(found: Recommendation) -> list[Block]:
    """Everything a recommendation says."""
    lacking = f" It lacks {', '.join(found.lacking)}." if found.lacking else ""
    blocks: list[Block] = [
        Verdict(headline(found), TONE[found.verdict], f"{found.rule}: {found.title}. {found.remedy}{lacking}"),
        Section("Evidence", [_list("condition", found.evidence), _list("rests on", found.because)]),
    ]
    if found.steps:
        steps = [(name, step(name).title, step(name).role, step(name).provenance) for name in found.steps]
        chosen = [(c["step"], f"{c['stage']}.{c['setting']}", str(c["value"]), c["why"]) for c in found.choices]
        blocks.append(
            Section(
                "Next steps",
                [
                    Table(["step", "what", "role", "provenance"], steps, f"Expected: {found.cost}."),
                    Table(["step", "setting", "value", "why"], chosen, "Chosen from the measurement."),
                ],
            )
        )
    doubts = [("would change the answer", text) for text in found.would_change]
    doubts += [("settles it", text) for text in found.ablation] + [("note", text) for text in found.notes]
    doubts += [("also open", f"{a.rule} {a.title}: {'; '.join(a.evidence)}") for a in found.alternatives]
    return [*blocks, *([Section("What would change it", [Table(["", "what"], doubts)])] if doubts else [])]


def _list(head: str, items: Sequence[str]) -> Table:
    return Table([head], [(item,) for item in items])
