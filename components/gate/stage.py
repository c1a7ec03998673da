"""Decides from held-out evaluations whether a candidate may replace the champion.

Every rule compares a paired difference's whole interval with its bound: met, broken, or undecided when the interval
straddles it. One broken rule fails the candidate; else one undecided rule leaves the decision open; only a candidate
that meets them all passes. The rules are this project's own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from posttrain.artifacts.evaluation import Conditions, comparable, read_evaluation
from posttrain.diagnosis.compare import Comparison, compare
from posttrain.diagnosis.intervals import Interval
from posttrain.progress import Progress
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind

Outcome = Literal["pass", "fail", "undecided"]


class GateSettings(Settings):
    """The bounds, in points of pass@1 or pass@K (0.02 = two points)."""

    min_gain: float = Field(default=0.0, ge=-1, le=1, description="what the gain in pass@1 must exceed")
    max_slice_loss: float = Field(default=0.02, ge=0, le=1, description="largest tolerated loss of pass@1 on any slice")
    max_support_loss: float = Field(default=0.05, ge=0, le=1, description="largest tolerated loss of pass@K")


@dataclass(frozen=True)
class Rule:
    """A rule as applied: what was measured, the bound that the difference must exceed, what came out."""

    what: str
    estimate: float
    low: float
    high: float
    bound: float
    outcome: Outcome


PARENTS = {
    "candidate": ParentSpec(Kind.EVALUATION, help="the candidate's evaluation"),
    "champion": ParentSpec(Kind.EVALUATION, help="the champion's evaluation of the same problems"),
}


def check(settings: GateSettings, parents: Parents) -> None:
    """Same problems, same decoding."""
    comparable(*(Conditions.recorded(parents.one(role).record) for role in ("champion", "candidate")))


def run(settings: GateSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Compare, apply the rules, write the decision."""
    candidate, champion = parents.one("candidate"), parents.one("champion")
    comparison = compare(read_evaluation(champion.path), read_evaluation(candidate.path), seed=settings.seed)
    rules = apply_rules(comparison, settings)
    verdict = decide(rules)
    reason = (
        "; ".join(
            f"{rule.what} {rule.estimate:+.3f} [{rule.low:+.3f}, {rule.high:+.3f}]"
            for rule in rules
            if rule.outcome == verdict
        )
        or "no rule applies"
    )
    decision = {"verdict": verdict, "reason": reason, "rules": [asdict(rule) for rule in rules]}
    (out / "decision.json").write_text(json.dumps(decision, indent=1) + "\n", encoding="utf-8")
    progress.update(1, 1, f"verdict: {verdict}")
    from posttrain.report.gate import gate_blocks

    return Work(
        facts={"verdict": verdict, "reason": reason, "candidate": str(candidate.record.facts["policy"])},
        metrics={"gain_pass_1": rules[0].estimate, "gain_pass_1_low": rules[0].low, "gain_pass_k": rules[1].estimate},
        blocks=gate_blocks(verdict, reason, rules),
    )


def apply_rules(comparison: Comparison, settings: GateSettings) -> list[Rule]:
    """Gain in pass@1 first, then pass@K, then every slice."""
    rules = [
        _rule("gain in pass@1", comparison.pass_1.delta, settings.min_gain),
        _rule(f"change of pass@{comparison.k}", comparison.pass_k.delta, -settings.max_support_loss),
    ]
    slices = comparison.slices if len(comparison.slices) > 1 else {}
    return rules + [
        _rule(f"change of pass@1 on {name}", part.pass_1.delta, -settings.max_slice_loss)
        for name, part in slices.items()
    ]


def _rule(what: str, delta: Interval, bound: float) -> Rule:
    outcome: Outcome = "pass" if delta.low > bound else "fail" if delta.high <= bound else "undecided"
    return Rule(what, delta.estimate, delta.low, delta.high, bound, outcome)


def decide(rules: list[Rule]) -> Outcome:
    """One broken rule fails; else one undecided leaves it open."""
    outcomes = {rule.outcome for rule in rules}
    return "fail" if "fail" in outcomes else "undecided" if "undecided" in outcomes else "pass"


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
