"""The gate's rules: each compares an interval with a bound, and is met, broken, or undecided where it straddles it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from posttrain.artifacts.record import Record
from posttrain.diagnosis.compare import Comparison
from posttrain.diagnosis.intervals import Interval, bootstrap
from posttrain.diagnosis.support import Paired
from posttrain.errors import ContractError, nearest
from posttrain.settings import Settings

Outcome = Literal["pass", "fail", "undecided"]


class GateSettings(Settings):
    """The bounds, in points of pass@1 or pass@K (0.02 = two points), or as ratios to the champion."""

    min_gain: float = Field(default=0.0, ge=-1, le=1, description="what the gain in pass@1 must exceed")
    max_slice_loss: float = Field(default=0.02, ge=0, le=1, description="largest tolerated loss of pass@1 on any slice")
    slice_losses: dict[str, float] = Field(
        default_factory=dict, description="slice → largest tolerated loss of pass@1 there, instead of max_slice_loss"
    )
    max_support_loss: float = Field(default=0.05, ge=0, le=1, description="largest tolerated loss of pass@K")
    max_cost_ratio: float = Field(
        default=0.0,
        ge=0,
        description="largest cost of an answer, parameters x tokens, relative to the champion's; 0 = any",
    )
    max_size_ratio: float = Field(
        default=0.0, ge=0, description="most parameters relative to the champion's, as 0.5 for a student; 0 = any"
    )

    @field_validator("slice_losses")
    @classmethod
    def _shares(cls, losses: dict[str, float]) -> dict[str, float]:
        for name, loss in losses.items():
            if not 0 <= loss <= 1:
                raise ValueError(f"{name}={loss}: use a share from 0 to 1")
        return losses


@dataclass(frozen=True)
class Rule:
    """A rule as applied: what was measured, its bound, what came out; `most`: the bound is from above."""

    what: str
    estimate: float
    low: float
    high: float
    bound: float
    outcome: Outcome
    most: bool = False

    @property
    def measured(self) -> str:
        """Estimate and interval; a difference with its sign."""
        sign = "" if self.most else "+"
        return f"{self.estimate:{sign}.3f} [{self.low:{sign}.3f}, {self.high:{sign}.3f}]"

    @property
    def wanted(self) -> str:
        """The bound as a reader sees it."""
        return f"≤ {self.bound:.3f}" if self.most else f"> {self.bound:+.3f}"


def apply_rules(comparison: Comparison, settings: GateSettings) -> list[Rule]:
    """Gain in pass@1 first, then pass@K, then every slice.

    Raises:
        ContractError: a bound is given for a slice that the problems have not.
    """
    slices = comparison.slices if len(comparison.slices) > 1 else {}
    for name in settings.slice_losses:
        if name not in slices:
            raise ContractError(f"gate: slice_losses: no slice {name!r} in the problems{nearest(name, slices)}")
    return [
        _above("gain in pass@1", comparison.pass_1.delta, settings.min_gain),
        _above(f"change of pass@{comparison.k}", comparison.pass_k.delta, -settings.max_support_loss),
        *(
            _above(
                f"change of pass@1 on {name}",
                part.pass_1.delta,
                -settings.slice_losses.get(name, settings.max_slice_loss),
            )
            for name, part in slices.items()
        ),
    ]


def limits(paired: Paired, policies: Mapping[str, Record], settings: GateSettings) -> list[Rule]:
    """What a better policy may cost: rules for those limits that are set.

    An answer costs 2 N floating-point operations a token, N parameters (2001.08361, section 2.1), so the ratio of costs
    is that of N x tokens. Of a mixture of experts all count, active or not.

    Args:
        policies: the records of `champion` and `candidate`.

    Raises:
        ContractError: a policy's record does not say how many parameters it has.
    """
    if not (settings.max_cost_ratio or settings.max_size_ratio):
        return []
    champion, candidate = (_parameters(name, policies[name]) for name in ("champion", "candidate"))
    rules = []
    if bound := settings.max_cost_ratio:
        before_M, after_M = champion * paired.before.tokens_M, candidate * paired.after.tokens_M
        # The sign of a mean of after - bound x before decides whether the ratio of means is below the bound (Fieller);
        # scaled by the mean before, it is the ratio's distance from the bound.
        distance = bootstrap((after_M - bound * before_M) / np.mean(before_M), settings.seed, bounds=None)
        ratio = Interval(bound + distance.estimate, bound + distance.low, bound + distance.high)
        rules.append(_below("cost of an answer, relative", ratio, bound))
    if bound := settings.max_size_ratio:
        size = candidate / champion
        rules.append(_below("parameters, relative", Interval(size, size, size), bound))
    return rules


def decide(rules: list[Rule]) -> Outcome:
    """One broken rule fails; else one undecided leaves it open."""
    outcomes = {rule.outcome for rule in rules}
    return "fail" if "fail" in outcomes else "undecided" if "undecided" in outcomes else "pass"


def reason(rules: list[Rule], verdict: Outcome) -> str:
    """The rules that decided, in a line."""
    return "; ".join(f"{rule.what} {rule.measured}" for rule in rules if rule.outcome == verdict) or "no rule applies"


def _parameters(name: str, policy: Record) -> int:
    count = policy.facts.get("parameters")
    if not isinstance(count, int) or count <= 0:
        raise ContractError(f"gate: the record of the {name} says not how many parameters it has; evaluate it again")
    return count


def _above(what: str, delta: Interval, bound: float) -> Rule:
    outcome: Outcome = "pass" if delta.low > bound else "fail" if delta.high <= bound else "undecided"
    return Rule(what, delta.estimate, delta.low, delta.high, bound, outcome)


def _below(what: str, ratio: Interval, bound: float) -> Rule:
    outcome: Outcome = "pass" if ratio.high <= bound else "fail" if ratio.low > bound else "undecided"
    return Rule(what, ratio.estimate, ratio.low, ratio.high, bound, outcome, most=True)
