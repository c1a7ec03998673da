"""Decides from held-out evaluations whether a candidate may replace the champion.

Every rule compares an interval of a paired difference or ratio with its bound: met, broken, or undecided when the
interval straddles it. One broken rule fails the candidate; else one undecided rule leaves the decision open; only a
candidate that meets them all passes. The rules are this project's own.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from posttrain.components.gate.rules import GateSettings, apply_rules, decide, limits, reason

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.evaluation import Conditions, comparable, read_evaluation
from posttrain.artifacts.record import Record
from posttrain.diagnosis.compare import compare
from posttrain.diagnosis.support import pair
from posttrain.progress import Progress
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind

PARENTS = {
    "candidate": ParentSpec(Kind.EVALUATION, help="the candidate's evaluation"),
    "champion": ParentSpec(Kind.EVALUATION, help="the champion's evaluation of the same problems"),
}


def check(settings: GateSettings, parents: Parents) -> None:
    """Same problems, same decoding."""
    comparable(*(Conditions.recorded(parents.one(role).record) for role in ("champion", "candidate")))


def run(settings: GateSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Compare, apply the rules, write the decision."""
    evaluations = {role: parents.one(role) for role in ("champion", "candidate")}
    before, after = (read_evaluation(evaluation.path) for evaluation in evaluations.values())
    rules = apply_rules(compare(before, after, seed=settings.seed), settings)
    rules += limits(pair(before, after), {role: _policy(each) for role, each in evaluations.items()}, settings)
    verdict = decide(rules)
    why = reason(rules, verdict)
    decision = {"verdict": verdict, "reason": why, "rules": [asdict(rule) for rule in rules]}
    (out / "decision.json").write_text(json.dumps(decision, indent=1) + "\n", encoding="utf-8")
    progress.update(1, 1, f"verdict: {verdict}")
    from posttrain.report.gate import gate_blocks

    judged = {role: str(evaluation.record.facts["policy"]) for role, evaluation in evaluations.items()}
    return Work(
        facts={"verdict": verdict, "reason": why, **judged},
        metrics={"gain_pass_1": rules[0].estimate, "gain_pass_1_low": rules[0].low, "gain_pass_k": rules[1].estimate},
        blocks=gate_blocks(verdict, why, rules),
    )


def _policy(evaluation: Artifact) -> Record:
    """The record of the policy that was measured; it is in the evaluation's own."""
    measured = evaluation.record.parent("policy")
    assert measured is not None  # evaluate requires it
    return measured


STAGE = Stage(
    name="gate",
    output="decision",
    makes=Kind.DECISION,
    parents=PARENTS,
    settings=GateSettings,
    run=run,
    check=check,
    image="control",
)
