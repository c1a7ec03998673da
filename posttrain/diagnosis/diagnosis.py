"""A diagnosis as it is stored: every signal with its interval, by slice, and the rule that each slice comes under."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from posttrain.diagnosis.decide import Decision, decide
from posttrain.diagnosis.intervals import Interval
from posttrain.diagnosis.rules import RuleTable, Signals
from posttrain.errors import DataError

DIAGNOSIS_FILE = "diagnosis.json"
ALL = "all"

Numbers = tuple[float, float, float]


class Finding(BaseModel):
    """What holds the policy back on a slice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str
    diagnosis: str
    title: str
    decided: bool
    evidence: list[str] = Field(description="the rule's conditions as applied")


class Diagnosis(BaseModel):
    """Everything that was measured, and what it amounts to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: str = Field(description="the policy's name")
    policy_digest: str
    parameters: int
    problems: int
    samples: int
    k: int = Field(description="K of pass@K: half the samples")
    tokens: float = Field(description="mean length of a completion")
    inputs: list[str] = Field(description="optional inputs at hand: demos, teacher, original, preferences")
    signals: dict[str, dict[str, Numbers]] = Field(description="slice → signal → estimate, low, high; `all` first")
    informative: dict[str, dict[int, Numbers]] = Field(description="slice → group size → share with a gradient")
    findings: dict[str, Finding]

    def of_slice(self, name: str = ALL) -> dict[str, Interval]:
        """The signals of a slice, as intervals."""
        return {signal: Interval(*numbers) for signal, numbers in self.signals[name].items()}

    @property
    def slices(self) -> list[str]:
        """The slices, without `all`."""
        return [name for name in self.signals if name != ALL]

    def write(self, directory: Path) -> None:
        """Write it as the artifact's content."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=True)
        (directory / DIAGNOSIS_FILE).write_text(text + "\n", encoding="utf-8")


def read_diagnosis(directory: Path) -> Diagnosis:
    """A stored diagnosis.

    Raises:
        DataError: there is none.
    """
    file = directory / DIAGNOSIS_FILE
    if not file.is_file():
        raise DataError(f"{directory}: no {DIAGNOSIS_FILE} in it; it is not a diagnosis")
    return Diagnosis.model_validate(json.loads(file.read_text(encoding="utf-8")))


def numbers(intervals: Mapping[str, Interval]) -> dict[str, Numbers]:
    """Known intervals as they are stored."""
    return {name: (i.estimate, i.low, i.high) for name, i in intervals.items() if i.known}


def findings(by_slice: Mapping[str, Signals], inputs: Sequence[str], table: RuleTable) -> dict[str, Finding]:
    """The rule that each slice comes under."""
    return {name: _finding(decide(signals, inputs, [], table)) for name, signals in by_slice.items()}


def _finding(decision: Decision) -> Finding:
    best = decision.best
    return Finding(
        rule=best.rule.id,
        diagnosis=best.rule.diagnosis,
        title=best.rule.title,
        decided=len({branch.rule.diagnosis for branch in decision.branches}) == 1,
        evidence=[str(tested) for tested in best.tested if tested.measured is not None],
    )
