"""The page of a registration: what became of it, and the versions so far. `posttrain models` shows the same rows."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.artifacts.record import Record
from posttrain.registry import Change, Index, Version
from posttrain.report.gate import TEXT, TONE
from posttrain.report.numbers import MISSING, number
from posttrain.report.page import Block, Cell, Facts, Section, Table, Verdict

VERSION_COLUMNS = ("version", "champion", "gated against", "gain in pass@1", "pass@1", "registered", "digest")
PROMOTION_COLUMNS = ("champion", "since", "why")
_SHOWN = 20  # rows of a table; a model that is retrained nightly has hundreds


def register_blocks(change: Change, index: Index, uri: str, model_registry: str = "") -> list[Block]:
    """Champion or not and why; where it lies; all versions; who was champion when.

    Args:
        index: after the change.
        uri: where the version lies.
        model_registry: URL of the server that was told, if one was.
    """
    name, after = f"{index.model} v{change.version.version}", change.after
    if change.promoted:
        again = change.before == after
        detail = "It was already." if again else f"Before: {_named(change.before)}."
        verdict = Verdict(f"{name} is registered and is the champion", "good", detail)
    else:
        why = change.why_not[:1].upper() + change.why_not[1:]
        verdict = Verdict(f"{name} is registered, and is not the champion", "undecided", why)
    where: list[tuple[str, Cell]] = [("lies at", uri), ("digest", change.version.digest)]
    where += [("champion before", _named(change.before)), ("champion now", _named(after))]
    where += [("listed by", model_registry)] if model_registry else []
    return [
        verdict,
        Facts(where),
        Section("Versions", [_newest(VERSION_COLUMNS, version_rows(index))]),
        Section("Champions", [_newest(PROMOTION_COLUMNS, promotion_rows(index))]),
    ]


def _newest(columns: Sequence[str], rows: Sequence[tuple[Cell, ...]]) -> Table:
    left = f"The newest {_SHOWN} of {len(rows)}; posttrain models lists all." if len(rows) > _SHOWN else ""
    return Table(columns, rows[:_SHOWN], left)


def refused_blocks(decision: Record) -> list[Block]:
    """What the gate said of what is not registered."""
    verdict = str(decision.facts["verdict"])
    return [Verdict(TEXT[verdict], TONE[verdict], str(decision.facts["reason"]))]


def version_rows(index: Index) -> list[tuple[Cell, ...]]:
    """All versions, the newest first."""
    were = {promotion.version for promotion in index.promotions}
    return [
        (
            f"v{version.version}",
            "now" if version.version == index.champion else "was" if version.version in were else "",
            _named(index.of(version.against), version.against[:12]),
            number(version.metrics.get("gain_pass_1")),
            number(version.evaluation.get("pass_at_1")),
            f"{version.registered:%Y-%m-%d}",
            version.digest[:12],
        )
        for version in reversed(index.versions)
    ]


def promotion_rows(index: Index) -> list[tuple[Cell, ...]]:
    """Who became champion when and why, the newest first."""
    return [
        (f"v{each.version}", f"{each.when:%Y-%m-%d %H:%M}", each.reason if each.decision else f"by hand: {each.reason}")
        for each in reversed(index.promotions)
    ]


def _named(version: Version | None, otherwise: str = "") -> str:
    return f"v{version.version}" if version else otherwise or MISSING
