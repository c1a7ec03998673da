"""The page of one stage: its own findings first, then what it was made from, counts, curves, settings, lineage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from posttrain.artifacts.record import Record
from posttrain.report import parts
from posttrain.report.numbers import number, plain, whole
from posttrain.report.page import Block, Cell, Page, Section, Verdict, render
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
    if record.absent:
        return Verdict("Nothing to do", "neutral", record.absent)
    says = _SAYS.get(record.stage, _trained if record.trace else lambda record: METHODS[record.method].title)
    return Verdict(says(record), "neutral", f"in {record.seconds:.1f} s", _numbers(record)[:3])


def _numbers(record: Record) -> list[tuple[str, Cell]]:
    """What was measured, the stage's own numbers first; of a curve, its ends."""
    own = [(plain(name), whole(value)) for name, value in record.metrics.items() if name not in record.curves]
    curves = {name: record.curves[name] for name in parts.CURVES if record.curves.get(name)}
    ends = {name: [points[0], points[-1]][-len(points) :] for name, points in curves.items()}
    return [*own, *((plain(name), " → ".join(number(y) for _, y in points)) for name, points in ends.items())]


def _trained(record: Record) -> str:
    trace = record.trace
    assert trace is not None
    return f"{METHODS[record.method].title} on {trace.rows:,} {trace.provenance} trajectories"


def _policy(record: Record) -> str:
    return f"{record.facts['architecture']} with {record.facts['parameters']:,} parameters"


def _prepared(record: Record) -> str:
    read, kept, mixed = (record.counts.get(name, 0) for name in ("rows_read", "rows_kept", "replay_rows"))
    told = [f"{record.facts['rows']:,} {record.kind}"]
    told += [f"{mixed:,} of them replayed"] if mixed else []
    told += [f"{read - kept:,} of {read:,} rows dropped" if read > kept else "no row dropped"]
    return ", ".join(told)


def _kept(record: Record) -> str:
    return f"{record.facts['rows']:,} of {record.counts['trajectories']:,} trajectories kept"


# What a stage that has no finding of its own made, in a line.
_SAYS: Mapping[str, Callable[[Record], str]] = {
    "base": _policy,
    "merge": _policy,
    "student": _policy,
    "prepare": _prepared,
    "rollout": lambda record: f"{record.facts['rows']:,} trajectories sampled",
    "verify": _kept,
    "select": lambda record: f"{record.facts['rows']:,} problems kept",
    "teacher_logits": lambda record: f"Top {record.facts['k']} logits of {record.counts['tokens']:,} tokens",
}
