"""The page of a registration: what became of it, and the versions so far. `posttrain models` shows the same rows."""

from __future__ import annotations

from posttrain.artifacts.record import Record
from posttrain.registry import Change, Index, Version
from posttrain.report.gate import TEXT, TONE
from posttrain.report.numbers import MISSING, number, plain
from posttrain.report.page import Block, Cell, Facts, Section, Table, Verdict

VERSION_COLUMNS = ("version", "champion", "digest", "registered", "gate", "metrics")
_CHAMPION = {True: "now", False: "was", None: ""}


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
        Section("Versions", [Table(VERSION_COLUMNS, version_rows(index))]),
        Section("Champions", [Table(("version", "since", "why"), promotion_rows(index))]),
    ]


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
            _CHAMPION[True if version.version == index.champion else False if version.version in were else None],
            version.digest[:12],
            f"{version.registered:%Y-%m-%d %H:%M}",
            version.reason or version.verdict,
            ", ".join(f"{plain(name)} {number(value)}" for name, value in _metrics(version).items()),
        )
        for version in reversed(index.versions)
    ]


def promotion_rows(index: Index) -> list[tuple[Cell, ...]]:
    """Who became champion when and why, the newest first."""
    return [
        (f"v{each.version}", f"{each.when:%Y-%m-%d %H:%M}", each.reason if each.decision else f"by hand: {each.reason}")
        for each in reversed(index.promotions)
    ]


def _metrics(version: Version) -> dict[str, float]:
    known = {**version.evaluation, **version.metrics}
    return dict(list(known.items())[:3])


def _named(version: Version | None) -> str:
    return f"v{version.version}" if version else MISSING
