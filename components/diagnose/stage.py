"""Finds what holds a policy back: every signal with its interval, by slice, and the rule each slice comes under.

Everything is read from stored evaluations; nothing is sampled again. With the policy itself, given texts are scored
under it (demonstrations, stored samples), which takes forward passes only.
"""

from __future__ import annotations

from pathlib import Path

from posttrain.components.diagnose.inputs import anchors_of, measured, measured_before
from posttrain.components.diagnose.probes import audit_signals, probe_signals
from pydantic import Field

from posttrain.artifacts.evaluation import Conditions, Evaluation, comparable, read_evaluation
from posttrain.diagnosis.compare import Comparison, compare, summarise
from posttrain.diagnosis.diagnosis import ALL, Diagnosis, findings, numbers
from posttrain.diagnosis.passk import largest_k, usual_samples
from posttrain.diagnosis.rules import rule_table
from posttrain.diagnosis.signals import (
    BySlice,
    anchor_signals,
    by_slice,
    change_signals,
    history_signals,
    informative_by_group,
    level_signals,
    scaffold_signals,
    teacher_signals,
    training_signals,
)
from posttrain.errors import ContractError
from posttrain.progress import Progress
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind


class DiagnoseSettings(Settings):
    """How far to look."""

    probe_rows: int = Field(default=256, ge=0, description="texts scored under the policy for each probe; 0 = none")
    batch_rows: int = Field(default=64, gt=0, description="texts scored at once")
    improbable: float = Field(default=0.01, gt=0, lt=1, description="a demonstration's token rarer than this surprises")
    thresholds: dict[str, float] = Field(default_factory=dict, description="other bounds of the rules, by name")


PARENTS = {
    "evaluation": ParentSpec(Kind.EVALUATION, help="of the policy in question"),
    "policy": ParentSpec(Kind.POLICY, required=False, help="that policy, to score given texts under it"),
    "before": ParentSpec(Kind.EVALUATION, most=7, required=False, help="earlier evaluations of the same problems"),
    "training": ParentSpec(Kind.EVALUATION, required=False, help="of the policy, on problems that rewards come from"),
    "anchors": ParentSpec(Kind.EVALUATION, 7, False, "on problems that must not get worse, the earliest first"),
    "teacher": ParentSpec(Kind.EVALUATION, required=False, help="of the teacher, same problems"),
    "scaffold": ParentSpec(Kind.EVALUATION, required=False, help="with search or hints, same problems"),
    "original": ParentSpec(Kind.POLICY, required=False, help="an earlier policy that could be brought back"),
    "demos": ParentSpec(Kind.TRAJECTORIES, required=False, help="demonstrations at hand"),
    "preferences": ParentSpec(Kind.TRAJECTORIES, required=False, help="preferences at hand"),
    "reward_model": ParentSpec(Kind.REWARD_MODEL, required=False, help="a reward model at hand"),
    "audit": ParentSpec(Kind.TRAJECTORIES, required=False, help="completions with a verifier and a trusted label"),
}
_PAIRED = ("before", "teacher", "scaffold")


def check(settings: DiagnoseSettings, parents: Parents) -> None:
    """Evaluations that are paired must have measured the same things in the same way."""
    evaluation = parents.one("evaluation").record
    for other in [other for role in _PAIRED for other in parents.all(role)]:
        comparable(Conditions.recorded(other.record), Conditions.recorded(evaluation))
    for other in parents.all("anchors")[1:]:
        comparable(Conditions.recorded(parents.one("anchors").record), Conditions.recorded(other.record))
    policy = parents.maybe("policy")
    if policy and policy.digest != measured(parents).record.facts["policy"]:
        raise ContractError(
            f"diagnose: the evaluation is of policy {str(evaluation.facts['policy'])[:12]}, not of the one given "
            f"({policy.digest[:12]}); give the policy that was evaluated"
        )
    rule_table().with_thresholds(settings.thresholds)


def run(settings: DiagnoseSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Gather the signals, apply the rules to every slice, write."""
    source = measured(parents)
    evaluation, before = read_evaluation(source.path), measured_before(parents)
    comparison = compare(read_evaluation(before.path), evaluation, seed=settings.seed) if before else None
    signals = by_slice(evaluation, lambda part: level_signals(part, settings.seed))
    progress.update(1, 3, "signals of the evaluation")
    _merge(signals, paired_signals(settings, parents, evaluation, comparison))
    progress.update(2, 3, "paired signals")
    probed = probe_signals(settings, parents, progress)
    signals[ALL] |= history_signals(source.record.parent("policy")) | probed | audit_signals(parents.maybe("audit"))
    for part in signals.values():  # what is true of the demonstrations or the teacher is true for every slice
        part |= {name: interval for name, interval in probed.items() if name not in part}
    inputs = [role for role in ("demos", "teacher", "original", "preferences") if parents.maybe(role)]
    table = rule_table().with_thresholds(settings.thresholds)
    policy = source.record.parent("policy")
    diagnosis = Diagnosis(
        policy=str(source.record.facts["policy_name"]),
        policy_digest=str(source.record.facts["policy"]),
        parameters=int(policy.facts.get("parameters", 0)) if policy else 0,
        problems=len(evaluation),
        samples=usual_samples(evaluation.scored_M),
        k=largest_k(usual_samples(evaluation.scored_M)),
        tokens=signals[ALL]["tokens"].estimate,
        inputs=inputs,
        signals={name: numbers(part) for name, part in signals.items()},
        informative={
            name: {size: (i.estimate, i.low, i.high) for size, i in part.items()}
            for name, part in _informative(evaluation, settings.seed).items()
        },
        findings=findings(signals, inputs, table),
    )
    diagnosis.write(out)
    from posttrain.report.diagnosis import diagnosis_blocks

    found = diagnosis.findings[ALL]
    return Work(
        facts={"diagnosis": found.diagnosis, "rule": found.rule, "policy": diagnosis.policy_digest},
        counts={"problems": diagnosis.problems, "signals": len(diagnosis.signals[ALL])},
        metrics={name: diagnosis.signals[ALL][name][0] for name in _METRICS if name in diagnosis.signals[ALL]},
        blocks=diagnosis_blocks(diagnosis, summarise(evaluation, settings.seed), comparison),
    )


_METRICS = ("pass_1", "pass_k", "headroom", "always_fail", "informative", "entropy")


def paired_signals(
    settings: DiagnoseSettings, parents: Parents, evaluation: Evaluation, comparison: Comparison | None
) -> BySlice:
    """What other evaluations of the same problems say beside this one."""
    seed = settings.seed
    found: BySlice = {ALL: {}}
    if comparison:
        _merge(found, change_signals(comparison))
    if teacher := parents.maybe("teacher"):
        _merge(found, teacher_signals(evaluation, read_evaluation(teacher.path), seed))
    if training := parents.maybe("training"):
        found[ALL] |= training_signals(evaluation, read_evaluation(training.path), seed)
    if scaffold := parents.maybe("scaffold"):
        found[ALL] |= scaffold_signals(evaluation, read_evaluation(scaffold.path), seed)
    if anchors := anchors_of(parents):
        first, own = anchors
        found[ALL] |= anchor_signals(read_evaluation(first.path), read_evaluation(own.path), seed)
    return found


def _informative(evaluation, seed):  # type: ignore[no-untyped-def]
    names = evaluation.slices if len(evaluation.slices) > 1 else []
    parts = {ALL: evaluation, **{name: evaluation.in_slice(name) for name in names}}
    return {name: informative_by_group(part, seed) for name, part in parts.items()}


def _merge(into: BySlice, more: BySlice) -> None:
    for name, signals in more.items():
        into.setdefault(name, {}).update(signals)


STAGE = Stage(
    name="diagnose",
    output="diagnosis",
    makes=Kind.DIAGNOSIS,
    parents=PARENTS,
    settings=DiagnoseSettings,
    run=run,
    check=check,
)
