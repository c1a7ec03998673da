"""The role that a stage turned out to play, from evaluations of the same problems before and after it.

The survey (arXiv 2604.07941) defines the three roles; how they are measured is this project's rule, not the survey's:

* **expansion**: more problems entered the support than luck alone puts there (the interval's low end is above 0);
* **reshaping**: pass@1 rose among the problems that are within reach both before and after;
* **consolidation**: the stage was meant to consolidate, and neither pass@1 nor pass@K fell, against the evaluation it
  is compared with (of the teacher, of the policy before the hand-off), by more than `TOLERANCE`.

A stage may play several roles or none. Attrition, the share of problems that left the support beyond luck, is reported
with every verdict and is never a role. An interval that allows both an effect and its absence is "undecided".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from posttrain.diagnosis.compare import Comparison
from posttrain.diagnosis.intervals import Interval, short
from posttrain.taxonomy import Role

# What still counts as unchanged, for gains and losses alike: 128 problems of 64 samples resolve changes of about .04 in
# pass@64 and no smaller ones (facts/diagnosis.md 3.2), and .05 is also where attrition calls for a repair (rule D7).
TOLERANCE = 0.05


class Finding(StrEnum):
    """What the evidence says about one role."""

    YES = "yes"
    NO = "no"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class MeasuredRole:
    """What a stage did, beside what it was meant to do."""

    intended: Role | None
    roles: tuple[Role, ...]
    undecided: tuple[Role, ...]
    """Roles that the evidence neither shows nor rules out."""
    attrition: Interval
    """Share of problems that left the support, beyond luck. A diagnostic, never a role."""
    verdict: str
    """One sentence, with the numbers it rests on."""

    @property
    def as_intended(self) -> bool | None:
        """Whether the stage did what it was meant to; None if undecided or if nothing was intended."""
        if self.intended is None or self.intended in self.undecided:
            return None
        return self.intended in self.roles


def measured_role(comparison: Comparison, intended: Role | None = None) -> MeasuredRole:
    """Which roles a stage played. Give `comparison.slices[name]` to judge one slice."""
    findings = {Role.EXPANSION: _expansion(comparison), Role.RESHAPING: _reshaping(comparison)}
    if intended is Role.CONSOLIDATION:
        findings[Role.CONSOLIDATION] = _consolidation(comparison)
    roles = tuple(role for role, finding in findings.items() if finding is Finding.YES)
    undecided = tuple(role for role, finding in findings.items() if finding is Finding.UNDECIDED)
    # Doubt about a role that nobody asked for is no headline, unless nothing else can be said.
    doubted = undecided if intended is None and not roles else tuple(role for role in undecided if role is intended)
    verdict = f"{_headline(roles, doubted, intended)}: {_numbers(comparison)}{_remedy(comparison, doubted)}"
    return MeasuredRole(intended, roles, undecided, comparison.support.lost.beyond_luck, verdict)


def _expansion(comparison: Comparison) -> Finding:
    return _above_zero(comparison.support.gained.beyond_luck)


def _reshaping(comparison: Comparison) -> Finding:
    # Only what is within reach can be reshaped, and where next to nothing is, no number of samples will show it.
    if comparison.support.kept.share.high < TOLERANCE:
        return Finding.NO
    return _above_zero(comparison.pass_1_kept)


def _consolidation(comparison: Comparison) -> Finding:
    deltas = (comparison.pass_1.delta, comparison.pass_k.delta)
    if all(delta.low > -TOLERANCE for delta in deltas):
        return Finding.YES
    return Finding.NO if any(delta.high < -TOLERANCE for delta in deltas) else Finding.UNDECIDED


def _above_zero(effect: Interval) -> Finding:
    if effect.low > 0:
        return Finding.YES
    return Finding.NO if effect.high < TOLERANCE else Finding.UNDECIDED


def _headline(roles: tuple[Role, ...], doubted: tuple[Role, ...], intended: Role | None) -> str:
    found = " and ".join(roles) or "no role"
    if doubted:
        return f"undecided on {' and '.join(doubted)}" + (f", {found} shown" if roles else "")
    if intended is None:
        return found
    return f"{found}, as intended" if intended in roles else f"{found}, though {intended} was intended"


def _numbers(comparison: Comparison) -> str:
    support, pass_k = comparison.support, comparison.pass_k
    fell = ", which fell" if pass_k.delta.high < 0 else ""
    return (
        f"pass@1 {comparison.pass_1}; pass@{comparison.k} {pass_k}{fell}; support gained beyond luck "
        f"{support.gained.beyond_luck}, lost {support.lost.beyond_luck} of {comparison.problems} problems"
    )


def _remedy(comparison: Comparison, doubted: tuple[Role, ...]) -> str:
    """How many problems would settle what is in doubt: intervals narrow with the root of their number."""
    if not doubted:
        return ""
    deciding = {
        Role.EXPANSION: (comparison.support.gained.beyond_luck,),
        Role.RESHAPING: (comparison.pass_1_kept,),
        Role.CONSOLIDATION: (comparison.pass_1.delta, comparison.pass_k.delta),
    }
    width = max((interval.width for role in doubted for interval in deciding[role] if interval.known), default=None)
    if width is None:
        return "; too few problems could be scored"
    # An interval narrower than the tolerance either excludes zero or lies within the tolerance.
    needed = math.ceil(comparison.problems * (width / TOLERANCE) ** 2)
    return f"; about {needed} such problems would settle it, to a tolerance of {short(TOLERANCE)}"
