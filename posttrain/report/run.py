"""What a run did: gathered from its artifacts' records alone, as blocks for a page and rows for a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.evaluation import Evaluation, measured_on, read_evaluation
from posttrain.artifacts.lineage import judged_against
from posttrain.artifacts.record import Record, has_record, read_record
from posttrain.diagnosis.compare import Comparison, Summary, compare, summarise
from posttrain.diagnosis.intervals import Interval
from posttrain.diagnosis.roles import MeasuredRole, measured_role
from posttrain.report import parts
from posttrain.report.charts import StackedBars
from posttrain.report.evaluation import SUPPORT, change_blocks, curve, support_counts
from posttrain.report.gate import TEXT, TONE
from posttrain.report.numbers import plain
from posttrain.report.page import Block, Section, Table, Verdict
from posttrain.report.rounds import round_blocks
from posttrain.taxonomy import METHODS, Kind


def _policy(evaluation: Record) -> Record:
    policy = evaluation.parent("policy")
    assert policy is not None, "evaluate requires a policy"
    return policy


@dataclass(frozen=True)
class Evaluated:
    """A policy that was measured."""

    record: Record  # of the evaluation
    measured: Evaluation
    summary: Summary

    @property
    def policy(self) -> Record:
        """The policy's record."""
        return _policy(self.record)


@dataclass(frozen=True)
class StageRow:
    """A stage that made a policy: what was promised, computed, meant and measured."""

    record: Record
    compared_with: str = ""
    comparison: Comparison | None = None
    role: MeasuredRole | None = None


@dataclass(frozen=True)
class Run:
    """Evaluations in the order of the run, the stages that made their policies, the gate's decision if there is one."""

    evaluations: list[Evaluated]
    stages: list[StageRow]
    decision: Record | None
    family: dict[str, Record]
    registrations: Sequence[Record] = ()
    recommendations: Sequence[Artifact] = ()

    @classmethod
    def of(
        cls,
        evaluations: Sequence[Artifact],
        decision: Artifact | None,
        registrations: Sequence[Record] = (),
        recommendations: Sequence[Artifact] = (),
    ) -> Run:
        """The run that these artifacts came from."""
        evaluated = [_evaluated(artifact) for artifact in evaluations]
        family: dict[str, Record] = {}
        for artifact in [*evaluations, *([decision] if decision else [])]:
            family |= artifact.record.family()
        made = [r for r in family.values() if r.kind is Kind.POLICY and r.parents]
        made.sort(key=lambda record: record.started)
        stages = [_stage_row(record, evaluated, family) for record in made]
        judged = decision.record if decision else None
        return cls(evaluated, stages, judged, family, registrations, recommendations)

    @classmethod
    def in_directory(cls, directory: Path) -> Run:
        """A run from what its directory holds so far."""
        paths = sorted(
            path.parent for path in directory.rglob("posttrain.json") if not path.parent.name.startswith(".")
        )
        found = [Artifact(path, read_record(path, verify=False)) for path in paths if has_record(path)]
        found.sort(key=lambda artifact: artifact.record.started)
        evaluations = _on_the_same(
            [a for a in found if a.record.kind is Kind.EVALUATION and not a.record.absent and not _is_copy(a.record)]
        )
        # In the order of the policies: a runner may measure the base last.
        evaluations.sort(key=lambda artifact: _policy(artifact.record).started)
        decisions = [artifact for artifact in found if artifact.record.kind is Kind.DECISION]
        registrations = [artifact.record for artifact in found if artifact.record.kind is Kind.REGISTRATION]
        recommendations = [artifact for artifact in found if artifact.record.kind is Kind.RECOMMENDATION]
        return cls.of(evaluations, decisions[-1] if decisions else None, registrations, recommendations)

    @property
    def result(self) -> str:
        """Digest of the policy that was gated; empty before."""
        return str(self.decision.facts["candidate"]) if self.decision else ""

    @property
    def last(self) -> Evaluated:
        """The evaluation of the policy that was gated; of the last one before that, or where it was not among them."""
        gated = [entry for entry in self.evaluations if entry.policy.digest == self.result]
        return [*self.evaluations, *gated][-1]

    def facts(self) -> dict[str, str | int | float]:
        """What the report's own record says."""
        verdict = str(self.decision.facts["verdict"]) if self.decision else "none"
        return {"evaluations": len(self.evaluations), "verdict": verdict}


def _on_the_same(evaluations: list[Artifact]) -> list[Artifact]:
    """Those of the problems that most policies were measured on: others (anchors, an exam) cannot stand beside them."""
    measured = [measured_on(artifact.record) for artifact in evaluations]
    most = max(measured, key=measured.count, default="")
    return [artifact for artifact, digest in zip(evaluations, measured, strict=True) if digest == most]


def _is_copy(evaluation: Record) -> bool:
    """Whether it repeats the one before: a round with nothing to do measures nothing."""
    return bool(evaluation.counts.get("reused"))


def _evaluated(artifact: Artifact) -> Evaluated:
    measured = read_evaluation(artifact.path)
    return Evaluated(artifact.record, measured, summarise(measured))


def _stage_row(record: Record, evaluated: Sequence[Evaluated], family: dict[str, Record]) -> StageRow:
    by_policy = {entry.policy.id: entry for entry in evaluated}
    after = by_policy.get(record.id)
    before = next((by_policy[r.id] for r in judged_against(record, family) if r.id in by_policy), None)
    if after is None or before is None:
        return StageRow(record)
    comparison = compare(before.measured, after.measured)
    return StageRow(record, before.policy.name, comparison, measured_role(comparison, record.role))


def evaluation_columns(run: Run) -> list[str]:
    """Column heads of the table before and after."""
    if not run.evaluations:
        return ["policy", "parameters"]
    k = run.evaluations[0].summary.k
    return ["policy", *(f"{part} pass@{n}" for part in _part_names(run) for n in (1, k)), "parameters"]


def evaluation_rows(run: Run) -> list[list[str | int]]:
    """One row a measured policy: pass@1 and pass@k with intervals, overall and by slice, and its parameters."""
    rows: list[list[str | int]] = []
    for entry in run.evaluations:
        k = run.evaluations[0].summary.k
        summaries = [entry.summary if name == "all" else entry.summary.slices[name] for name in _part_names(run)]
        numbers = [str(summary.pass_at[n]) for summary in summaries for n in (1, k)]
        rows.append([plain(entry.policy.name), *numbers, int(entry.policy.facts.get("parameters", 0))])
    return rows


def _part_names(run: Run) -> list[str]:
    slices = list(run.evaluations[0].summary.slices)
    return ["all", *slices] if len(slices) > 1 else ["all"]


STAGE_COLUMNS = [
    "stage",
    "method",
    "provenance",
    "on-policy",
    "self-generated",
    "role meant",
    "role measured",
    "attrition",
    "seconds",
]


def stage_rows(run: Run) -> list[list[str | float | None]]:
    """One row a stage that made a policy."""
    rows: list[list[str | float | None]] = []
    for stage in run.stages:
        record, trace, role = stage.record, stage.record.trace, stage.role
        measured = None if role is None else " + ".join(role.roles) or ("undecided" if role.undecided else "none")
        rows.append(
            [
                plain(record.name),
                METHODS[record.method].title,
                trace.provenance if trace else None,
                round(trace.on_policy_fraction, 2) if trace else None,
                round(trace.self_generated_fraction, 2) if trace else None,
                record.role,
                measured,
                str(role.attrition) if role else None,
                round(record.seconds, 1),
            ]
        )
    return rows


def run_table(run: Run) -> dict[str, Any]:
    """The run's numbers as JSON."""
    return {
        "evaluations": [
            {
                "policy": entry.policy.name,
                "parameters": entry.policy.facts.get("parameters"),
                "pass_at": {str(k): _numbers(interval) for k, interval in entry.summary.pass_at.items()},
                "slices": {
                    name: {str(k): _numbers(interval) for k, interval in part.pass_at.items()}
                    for name, part in entry.summary.slices.items()
                },
            }
            for entry in run.evaluations
        ],
        "stages": [dict(zip(STAGE_COLUMNS[:-1], row[:-1], strict=True)) for row in stage_rows(run)],
        "decision": dict(run.decision.facts) if run.decision else None,
    }


def _numbers(interval: Interval) -> list[float]:
    return [interval.estimate, interval.low, interval.high]


def run_blocks(run: Run) -> list[Block]:
    """The report: verdict, table, pass@k, support, roles, curves, lineage."""
    if not run.evaluations:
        return [Verdict("Nothing was measured yet", "neutral", "A run's report begins with its first evaluation.")]
    compared = [stage for stage in run.stages if stage.comparison]
    curves = [block for stage in run.stages for block in _named_curves(stage.record)]
    return [
        _verdict(run),
        *round_blocks(run.recommendations, run.result),
        Section(
            "Before and after", [Table(evaluation_columns(run), evaluation_rows(run), "95% intervals over problems.")]
        ),
        Section("pass@k", _pass_curves(run)),
        Section("Support", _support_blocks(run, compared)),
        Section(
            "What each stage did",
            [Table(STAGE_COLUMNS, stage_rows(run), "Provenance and roles as computed."), *_roles(compared)],
        ),
        *([Section("Training curves", curves)] if curves else []),
        Section("Lineage", [parts.lineage(run.family.values())]),
    ]


def _verdict(run: Run) -> Verdict:
    first, last = run.evaluations[0], run.last
    k = first.summary.k
    numbers = [
        (f"pass@{n}", f"{first.summary.pass_at[n]} → {last.summary.pass_at[n]}")
        for n in (1, k)
        if n in last.summary.pass_at
    ]
    if run.decision is None:
        return Verdict(f"{plain(last.policy.name)}: not yet gated", "neutral", "", numbers)
    verdict = str(run.decision.facts["verdict"])
    return Verdict(TEXT[verdict], TONE[verdict], str(run.decision.facts["reason"]), numbers)


def _pass_curves(run: Run) -> list[Block]:
    def chart(part: str) -> Block:
        summaries = {
            entry.policy.name: entry.summary if part == "all" else entry.summary.slices[part]
            for entry in run.evaluations
        }
        return curve(summaries, f"pass@k, {part}")

    return [chart(part) for part in _part_names(run)]


def _support_blocks(run: Run, stages: Sequence[StageRow]) -> list[Block]:
    rows = [
        (f"{plain(stage.compared_with)} → {plain(stage.record.name)}", support_counts(stage.comparison))
        for stage in stages
        if stage.comparison
    ]
    blocks: list[Block] = [StackedBars("Problems by support, stage by stage", SUPPORT, rows)]
    first, last = run.evaluations[0], run.last
    if last is not first:
        whole = compare(first.measured, last.measured)
        names = f"{plain(last.policy.name)} minus {plain(first.policy.name)}"
        blocks += change_blocks({"all": whole, **whole.slices}, names)[:1]
    return blocks


def _roles(stages: Sequence[StageRow]) -> list[Block]:
    rows = [(plain(s.record.name), f"against {plain(s.compared_with)}", s.role.verdict) for s in stages if s.role]
    return [Table(["stage", "compared", "finding"], rows)] if rows else []


def _named_curves(record: Record) -> list[Block]:
    found = parts.curves(record, most=3)
    return [Section(plain(record.name), block.blocks) for block in found if isinstance(block, Section)]
