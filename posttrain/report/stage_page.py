"""The page of one stage: its own findings first, then what it was made from, counts, curves, settings, lineage."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.artifacts.record import Record
from posttrain.report import parts
from posttrain.report.numbers import plain
from posttrain.report.page import Block, Page, Section, Verdict, render
from posttrain.taxonomy import METHODS


def stage_page(record: Record, blocks: Sequence[Block]) -> str:
    """The page as HTML.

    Args:
        blocks: the stage's own blocks; a verdict is made from the record where they have none.
    """
    method = METHODS[record.method]
    verdict = [] if blocks and isinstance(blocks[0], Verdict) else [_verdict(record)]
    graph = parts.lineage([record, *record.ancestors.values()])
    lineage = [Section("Lineage", [graph])] if len(graph.nodes) > 1 else []
    page = Page(
        title=plain(record.name),
        subtitle=f"{method.title} · stage {record.stage}",
        blocks=[
            *verdict,
            *blocks,
            *parts.counted(record),
            *parts.curves(record),
            parts.made_from(record),
            *lineage,
            *parts.settings_of(record),
        ],
    )
    return render(page)


def _verdict(record: Record) -> Verdict:
    method = METHODS[record.method]
    if record.absent:
        return Verdict("Nothing to do", "neutral", record.absent)
    numbers = [(plain(name), round(value, 4)) for name, value in list(record.metrics.items())[:3]]
    if record.trace:
        text = f"{method.title} on {record.trace.rows} {record.trace.provenance} trajectories"
    else:
        text = f"{method.title}: done"
    return Verdict(text, "neutral", f"in {record.seconds:.1f} s", numbers)
