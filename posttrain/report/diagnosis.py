"""The page of a diagnosis: what holds the policy back on each slice, the curves, and every signal."""

from __future__ import annotations

from posttrain.diagnosis.compare import Comparison, Summary
from posttrain.diagnosis.diagnosis import ALL, Diagnosis
from posttrain.diagnosis.intervals import Interval
from posttrain.report.charts import LineChart, Segment, Series, StackedBars
from posttrain.report.evaluation import change_blocks, curve
from posttrain.report.numbers import plain
from posttrain.report.page import Block, Section, Table, Verdict

_SOLVED = (Segment("always right", "good"), Segment("sometimes", "accent"), Segment("never", "bad"))


def diagnosis_blocks(diagnosis: Diagnosis, summary: Summary, comparison: Comparison | None) -> list[Block]:
    """Everything that a diagnosis says."""
    found = diagnosis.findings[ALL]
    change: list[Block] = []
    if comparison:
        change = [Section("What the last stage changed", change_blocks({ALL: comparison, **comparison.slices}))]
    return [
        Verdict(
            f"{plain(diagnosis.policy)}: {found.diagnosis}",
            "neutral" if found.decided else "undecided",
            f"{found.rule}: {found.title}. {diagnosis.problems} problems, {diagnosis.samples} samples each.",
            [(name, str(Interval(*diagnosis.signals[ALL][name]))) for name in ("pass_1", "pass_k")],
        ),
        Section(
            "What holds it back",
            [_findings(diagnosis), StackedBars("Problems", _SOLVED, _solved(diagnosis, summary))],
        ),
        Section(
            "Reach and gradient",
            [
                curve({ALL: summary, **(summary.slices if len(summary.slices) > 1 else {})}),
                _informative(diagnosis),
            ],
        ),
        *change,
        Section("Signals", [_signals(diagnosis)]),
    ]


def _findings(diagnosis: Diagnosis) -> Table:
    rows = [
        (name, f.diagnosis + ("" if f.decided else " (undecided)"), f"{f.rule} {f.title}", "; ".join(f.evidence))
        for name, f in diagnosis.findings.items()
    ]
    return Table(["slice", "what holds it back", "rule", "evidence"], rows)


def _solved(diagnosis: Diagnosis, summary: Summary) -> list[tuple[str, list[float | None]]]:
    """How many problems are always, sometimes and never solved."""

    def count(part: str, name: str) -> float | None:
        problems = summary.problems if part == ALL else summary.slices[part].problems
        return round(diagnosis.signals[part][name][0] * problems) if name in diagnosis.signals[part] else None

    return [
        (part, [count(part, name) for name in ("always_pass", "sometimes", "always_fail")])
        for part in diagnosis.signals
    ]


def _informative(diagnosis: Diagnosis) -> LineChart:
    """What RL would have to learn from, for every group size."""
    series = [
        Series(
            name,
            [(size, numbers[0]) for size, numbers in by_size.items()],
            [(size, numbers[1], numbers[2]) for size, numbers in by_size.items()],
        )
        for name, by_size in diagnosis.informative.items()
    ]
    title = "Groups that would carry a gradient (pass@G - pass^G)"
    return LineChart(title, "G (group size)", "share of groups", series, x_scale="log2", y_range=(0.0, 1.0))


def _signals(diagnosis: Diagnosis) -> Table:
    names = list(dict.fromkeys(name for part in diagnosis.signals.values() for name in part))
    rows = [
        (plain(name), *(str(Interval(*part[name])) if name in part else None for part in diagnosis.signals.values()))
        for name in names
    ]
    caption = f"Means over problems with 95% intervals; K = {diagnosis.k}. Differences are paired."
    return Table(["signal", *diagnosis.signals], rows, caption)
