"""The parts of a page that several pages share: what a record says, as blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from posttrain.artifacts.record import ParentRef, Record
from posttrain.report.charts import Graph, LineChart, Node, Series
from posttrain.report.numbers import plain
from posttrain.report.page import Block, Cell, Facts, Section, Table
from posttrain.taxonomy import METHODS, Kind

# Curves that are worth a look, the most telling first; the rest stay in the record.
CURVES = (
    "reward",
    "rewards/margins",
    "rewards/accuracies",
    "accuracy",
    "loss",
    "mean_token_accuracy",
    "frac_reward_zero_std",
    "kept_groups",
    "hinted",
    "kl",
    "entropy",
    "completions/mean_length",
    "completions/clipped_ratio",
    "grad_norm",
    "learning_rate",
)
_LEADS_SOMEWHERE = (Kind.POLICY, Kind.REWARD_MODEL, Kind.PROCESS_REWARD_MODEL, Kind.PROBLEMS, Kind.TRAJECTORIES)
_SETTINGS_NOT_SHOWN = {"accept_provenance", "trainer_args"}


def made_from(record: Record) -> Section:
    """What made the artifact, from what."""
    pairs: list[tuple[str, str | int | float | None]] = [
        ("digest", record.digest),
        ("method", METHODS[record.method].title),
    ]
    pairs += [("role meant", record.role)] if record.role else []
    if trace := record.trace:
        pairs += [
            ("provenance", trace.provenance),
            ("on-policy fraction", round(trace.on_policy_fraction, 3)),
            ("self-generated fraction", round(trace.self_generated_fraction, 3)),
            ("trajectories", trace.rows),
        ]
        if trace.staleness:
            pairs.append(("staleness (steps: rows)", ", ".join(f"{s}: {n}" for s, n in trace.staleness.items())))
    parents = [
        (f"{ref.role} ({ref.kind})", f"{record.ancestors[ref.id].name} · {ref.digest}") for ref in record.parents
    ]
    pairs += [*parents, ("seconds", f"{record.seconds:,.1f}")]
    return Section("Made from", [Facts(pairs)])


def counted(record: Record) -> list[Block]:
    """Rows read, kept and dropped."""
    rows = [(plain(name), count) for name, count in record.counts.items()]
    return [Section("Counted", [Table(["what", "how many"], rows)])] if rows else []


def settings_of(record: Record) -> list[Block]:
    """The settings that are set, and the library versions."""
    chosen = {
        k: v for k, v in record.parameters.items() if v not in (None, {}, [], "") and k not in _SETTINGS_NOT_SHOWN
    }
    chosen |= {f"trainer_args.{k}": v for k, v in (record.parameters.get("trainer_args") or {}).items()}
    chosen = {key: value for name, given in chosen.items() for key, value in _spread(name, given)}
    versions = ", ".join(f"{name} {version}" for name, version in record.environment.versions.items())
    return [Section("Settings", [Facts([*chosen.items(), ("versions", versions)])])]


def _spread(name: str, value: Any) -> Iterator[tuple[str, Cell]]:
    """A setting as people would write it; those in a dict one by one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _spread(f"{name}.{key}", inner)
    elif isinstance(value, float):
        yield name, f"{value:g}"  # as it was given: 0.05 and not 0.050
    elif value not in (None, [], ""):
        yield name, value if isinstance(value, str | int) else ", ".join(map(str, value))


def curves(record: Record, most: int = len(CURVES)) -> list[Block]:
    """The training curves worth a look, the most telling first."""
    names = [name for name in CURVES if len(record.curves.get(name, [])) > 1][:most]
    charts = [LineChart(name, "step", "", [Series(name, [(x, y) for x, y in record.curves[name]])]) for name in names]
    return [Section("Training curves", charts)] if charts else []


def lineage(records: Iterable[Record], title: str = "Lineage") -> Graph:
    """Which artifact came from which. Evaluations, decisions and pages are left out: they lead nowhere."""
    shown = {r.id: r for r in records if r.kind in _LEADS_SOMEWHERE}
    nodes = [Node(r.id, r.name, _sublabel(r), "good" if r.kind is Kind.POLICY else "neutral") for r in shown.values()]
    edges = [(ref.id, record.id, ref.role) for record in shown.values() for ref in _distinct(record) if ref.id in shown]
    return Graph(title, nodes, edges)


def _distinct(record: Record) -> list[ParentRef]:
    """One edge between two artifacts, whatever the number of roles."""
    return list({ref.id: ref for ref in reversed(record.parents)}.values())


def _sublabel(record: Record) -> str:
    if record.trace:
        return f"{record.method}, {record.trace.provenance}"
    return METHODS[record.method].name
