"""Hyperparameters of a step chosen from what was measured, each with its reason.

What was not measured keeps the stage's default. The learning rates scale with the root of the policy's size, a rule of
ours that meets TRL's defaults at 7B parameters (2e-5 for SFT, 1e-6 for RL) and what the Countdown worlds need at 0.9M.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from posttrain.diagnosis.diagnosis import ALL, Diagnosis
from posttrain.diagnosis.intervals import Interval, short
from posttrain.diagnosis.rules import Rule, RuleTable
from posttrain.recipes.compose import StepUse, step
from posttrain.taxonomy import Role

GROUP_SIZES = (8, 16, 32)
# A group without contrast costs as much as one with: half of them wasted is where larger groups or a choice of
# problems pay.
ENOUGH_INFORMATIVE = 0.5
WORTH_SAMPLING = 0.05  # share of groups with a gradient below which a slice is left out
REFERENCE_PARAMETERS = 7e9
REFERENCE_RATE = {"sft": 2e-5, "distill": 2e-5, "preference": 1e-6, "rl": 1e-6}


class Choice(NamedTuple):
    """A setting, its value and why."""

    stage: str  # of the step
    setting: str
    value: Any
    why: str


def use_of(
    name: str, diagnosis: Diagnosis, rule: Rule, table: RuleTable, after: str = ""
) -> tuple[StepUse, list[Choice]]:
    """A step with its settings chosen.

    Args:
        after: the step taken just before: gains are handed on with care.
    """
    name = _edge(name, diagnosis)
    chosen = [choice for stage in step(name).stages for choice in _choices(name, stage, diagnosis, after)]
    settings: dict[str, dict[str, Any]] = {}
    for choice in chosen:
        settings.setdefault(choice.stage, {})[choice.setting] = choice.value
    why = f"{rule.id}: {rule.title}"
    return StepUse(step=name, settings=settings, why=why, role=role_of(name, diagnosis, rule, table)), chosen


def role_of(name: str, diagnosis: Diagnosis, rule: Rule | None, table: RuleTable) -> Role:
    """What a step is meant to do here: what the rule says, or else what it usually does; where little is out of reach,
    supplied trajectories can only reshape.
    """
    if rule and rule.role:
        return rule.role
    usual = step(name).role
    missing = diagnosis.of_slice()["always_fail"]
    within_reach = missing.known and missing.estimate < table.thresholds["always_fail"].value
    return Role.RESHAPING if usual is Role.EXPANSION and within_reach else usual


def group_size(diagnosis: Diagnosis, slice_name: str = ALL) -> tuple[int, Interval]:
    """The smallest group of which half carry a gradient, else the largest that was measured."""
    measured = {g: Interval(*n) for g, n in diagnosis.informative[slice_name].items() if g in GROUP_SIZES}
    if not measured:
        return GROUP_SIZES[0], Interval(math.nan, math.nan, math.nan)
    enough = [g for g, share in measured.items() if share.estimate >= ENOUGH_INFORMATIVE]
    size = min(enough) if enough else max(measured)
    return size, measured[size]


def learning_rate(room: str, parameters: int) -> float:
    """The room's rate at 7B parameters, times the root of how much smaller the policy is; two digits."""
    return float(f"{REFERENCE_RATE[room] * math.sqrt(REFERENCE_PARAMETERS / max(parameters, 1)):.1e}")


def _edge(name: str, diagnosis: Diagnosis) -> str:
    """RL on chosen problems where most groups would carry no gradient."""
    size, informative = group_size(diagnosis)
    within_reach = [s for s in diagnosis.slices if _worth(diagnosis, s, size)]
    mixed_slices = len(within_reach) == len(diagnosis.slices)
    return "rl_edge" if name == "rl" and mixed_slices and informative.estimate < ENOUGH_INFORMATIVE else name


def _worth(diagnosis: Diagnosis, slice_name: str, size: int) -> bool:
    measured = diagnosis.informative[slice_name].get(size)
    return measured is None or measured[2] >= WORTH_SAMPLING


def _choices(name: str, stage: str, diagnosis: Diagnosis, after: str) -> Iterator[Choice]:
    spec = step(name).stages[stage]
    if spec.use in REFERENCE_RATE:
        rate = learning_rate(spec.use, diagnosis.parameters)
        yield Choice(stage, "learning_rate", rate, f"scaled to {diagnosis.parameters:,} parameters")
    if spec.use == "rl":
        yield from _rl(name, stage, diagnosis, after)
    if spec.use == "rollout" and "policy" in spec.parents and spec.parents["policy"] == "current":
        yield from _own_samples(stage, diagnosis)
    if spec.use == "prepare" and "replay" in spec.parents:
        signals = diagnosis.of_slice()
        solved = 1 - signals["always_fail"].estimate
        share = round(min(0.5, max(0.2, solved)), 2)
        yield Choice(stage, "replay_share", share, f"{short(solved)} of the problems are solved and could be forgotten")


def _rl(name: str, stage: str, diagnosis: Diagnosis, after: str) -> Iterator[Choice]:
    size, informative = group_size(diagnosis)
    yield Choice(stage, "group_size", size, f"share of groups with a gradient {informative}")
    yield Choice(stage, "batch_size", size, "one group a forward pass")
    chosen = [s for s in diagnosis.slices if _worth(diagnosis, s, size)]
    if name == "rl" and len(diagnosis.slices) > len(chosen) > 0 and not after:
        yield Choice(stage, "slices", chosen, "the other slices have no group with a gradient yet")


def _own_samples(stage: str, diagnosis: Diagnosis) -> Iterator[Choice]:
    """Enough samples that a problem of the median rate among those solved is answered right twice."""
    signals = diagnosis.of_slice()
    rate = signals["pass_1"].estimate / max(1 - signals["always_fail"].estimate, 1e-3)
    samples = 2 ** min(6, max(3, math.ceil(math.log2(2 / max(rate, 1e-3)))))
    yield Choice(stage, "samples", samples, f"about two right answers a problem at a rate of {short(rate)}")
