"""An evaluation's page: pass@k with bands, slices, and, where there is an earlier one, what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from posttrain.diagnosis.compare import Comparison, Summary
from posttrain.diagnosis.roles import MeasuredRole
from posttrain.report.charts import Intervals, LineChart, Segment, Series, StackedBars
from posttrain.report.numbers import plain
from posttrain.report.page import Block, Sample, Samples, Section, Table, Tone, Verdict

TONE: Mapping[bool | None, Tone] = {True: "good", False: "bad", None: "undecided"}  # by `as_intended`
SUPPORT = (Segment("kept", "good"), Segment("gained", "accent"), Segment("lost", "bad"), Segment("outside", "neutral"))


def evaluation_blocks(
    name: str,
    summary: Summary,
    comparison: Comparison | None,
    examples: Sequence[tuple[str, str, float | None]],
    role: MeasuredRole | None = None,
) -> list[Block]:
    """The blocks of an evaluation's page.

    Args:
        comparison: with an earlier evaluation, if there is one.
        role: what the policy's last stage turned out to do, if that could be told.
    """
    change = [Section("What changed", change_blocks({"all": comparison, **comparison.slices}))] if comparison else []
    return [
        _verdict(plain(name), summary, role),
        Section("pass@k", [curve({name: part for name, part in _parts(summary).items()}), slice_table(summary)]),
        *change,
        Section(
            "Examples", [Samples([Sample(*example) for example in examples], "The first sample of a few problems.")]
        ),
    ]


def _verdict(name: str, summary: Summary, role: MeasuredRole | None) -> Verdict:
    k, measured = summary.k, f"{summary.samples} samples each; 95% intervals over problems"
    numbers = [("pass@1", str(summary.pass_at[1])), (f"pass@{k}", str(summary.pass_at[k]))]
    if role is None:
        told = f"{summary.problems} problems, {measured}"
        return Verdict(f"{name}: pass@1 {summary.pass_at[1]}", "neutral", told, numbers[1:])
    head, _, evidence = role.verdict.partition(": ")
    tone = TONE[role.as_intended] if role.intended else "neutral"
    return Verdict(f"{name}: {head}", tone, f"{evidence}, {measured}", numbers)


def _parts(summary: Summary) -> dict[str, Summary]:
    return {"all": summary, **(summary.slices if len(summary.slices) > 1 else {})}


def curve(summaries: dict[str, Summary], title: str = "pass@k") -> LineChart:
    """pass@k of several policies or slices, with their bands."""
    series = [
        Series(
            plain(name),
            [(k, interval.estimate) for k, interval in summary.pass_at.items()],
            [(k, interval.low, interval.high) for k, interval in summary.pass_at.items()],
        )
        for name, summary in summaries.items()
    ]
    return LineChart(title, "k (samples)", "share solved", series, x_scale="log2", y_range=(0.0, 1.0))


def slice_table(summary: Summary) -> Table:
    """The numbers of every slice."""
    k = summary.k
    rows = [
        (
            name,
            part.problems,
            str(part.pass_at[1]),
            str(part.pass_at[k]),
            str(part.pass_hat[k]),
            str(part.headroom),
            str(part.distinct_right),
            part.unscorable_samples,
        )
        for name, part in _parts(summary).items()
    ]
    columns = ["slice", "problems", "pass@1", f"pass@{k}", f"pass^{k}", "headroom", "distinct right", "unscorable"]
    return Table(columns, rows, "Means over problems with 95% intervals; unscorable samples are in no mean.")


def change_blocks(comparisons: dict[str, Comparison], title: str = "Difference, after minus before") -> list[Block]:
    """Paired differences and the support kept, gained and lost."""
    shown = comparisons if len(comparisons) > 2 else {"all": comparisons["all"]}
    rows = []
    for name, part in shown.items():
        rows.append((f"pass@1, {name}", part.pass_1.delta.estimate, part.pass_1.delta.low, part.pass_1.delta.high))
        rows.append(
            (f"pass@{part.k}, {name}", part.pass_k.delta.estimate, part.pass_k.delta.low, part.pass_k.delta.high)
        )
    return [
        Intervals(title, rows),
        StackedBars("Problems by support", SUPPORT, [(name, support_counts(part)) for name, part in shown.items()]),
    ]


def support_counts(comparison: Comparison) -> list[float | None]:
    """Problems kept, gained, lost and outside, as `SUPPORT` orders them."""
    support = comparison.support
    return [len(part.ids) for part in (support.kept, support.gained, support.lost, support.outside)]
