"""The page of a followed recommendation: the stages that ran inside the pod."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.artifacts.record import Record
from posttrain.recipes.schema import Recipe
from posttrain.report.numbers import plain
from posttrain.report.page import Block, Section, Table, Text, Verdict
from posttrain.taxonomy import METHODS


def handed_on_blocks(why: str) -> list[Block]:
    """That nothing was done, or could be."""
    told = f"The policy is handed on as it is. {why}".rstrip()
    return [Verdict("The step could not be taken" if why else "Nothing to do", "bad" if why else "neutral", told)]


def followed_blocks(recipe: Recipe, ran: Sequence[Record]) -> list[Block]:
    """What ran, in order."""
    ordered = sorted(ran, key=lambda record: record.started)
    rows = [
        (
            plain(record.name),
            METHODS[record.method].title,
            record.trace.provenance if record.trace else None,
            record.role,
            round(record.seconds, 1),
        )
        for record in ordered
    ]
    return [
        Verdict(recipe.title, "neutral", recipe.description),
        Section("Stages", [Table(["stage", "method", "provenance", "role meant", "seconds"], rows)]),
        *([Text(recipe.source)] if recipe.source else []),
    ]
