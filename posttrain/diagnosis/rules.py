"""The rules of `rules.yaml` and how they are applied to signals with intervals.

Three-valued: a condition holds if the signal's whole interval lies on its side of the threshold, fails if it lies on
the other, and is undecided if the interval straddles it. A rule holds if all its conditions do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from posttrain.diagnosis.intervals import Interval, short
from posttrain.errors import ConfigError
from posttrain.recipes.compose import step
from posttrain.taxonomy import Role

Signals = Mapping[str, Interval]


class Answer(StrEnum):
    """What the evidence says about a condition or a rule."""

    YES = "yes"
    NO = "no"
    UNDECIDED = "undecided"
    UNMEASURED = "unmeasured"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Threshold(_Entry):
    """A named bound, so that it can be tuned and cited."""

    value: float
    what: str


class Condition(_Entry):
    """A signal against a threshold, or any of several conditions."""

    signal: str = ""
    at_least: str = ""
    below: str = ""
    any: list[Condition] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_form(self) -> Condition:
        if bool(self.any) == bool(self.signal) or (self.signal and bool(self.at_least) == bool(self.below)):
            raise ValueError("give `any`, or a signal with either at_least or below")
        return self

    @property
    def threshold(self) -> str:
        """The name of the bound."""
        return self.at_least or self.below

    def leaves(self) -> list[Condition]:
        """The conditions that name a signal."""
        return [leaf for part in self.any for leaf in part.leaves()] if self.any else [self]


class Rule(_Entry):
    """One row: when it holds, what that means, what to do next."""

    id: str
    diagnosis: str
    title: str
    when: list[Condition] = Field(min_length=1)
    note: bool = False
    then: list[list[str]] = Field(default_factory=list, description="remedies, best first; each a sequence of steps")
    excludes: list[str] = Field(default_factory=list, description="steps that a note takes out of later remedies")
    opening: bool = Field(default=False, description="only before the first step: later, keep or rollback answers it")
    after: list[str] = Field(default_factory=list, description="only right after one of these steps")
    regardless: bool = Field(default=False, description="notes do not narrow its remedies")
    role: Role | None = Field(default=None, description="what its steps are meant to do, where that is not the usual")
    remedy: str
    because: list[str] = Field(min_length=1)


class RuleTable(_Entry):
    """`rules.yaml`."""

    thresholds: dict[str, Threshold]
    rules: list[Rule]

    @model_validator(mode="after")
    def _consistent(self) -> RuleTable:
        for rule in self.rules:
            for leaf in [leaf for condition in rule.when for leaf in condition.leaves()]:
                if leaf.threshold not in self.thresholds:
                    raise ValueError(f"{rule.id}: no threshold is called {leaf.threshold!r}")
            for name in [*rule.excludes, *rule.after, *(name for remedy in rule.then for name in remedy)]:
                try:
                    step(name)
                except ConfigError as error:
                    raise ValueError(f"{rule.id}: {error}") from None
        return self

    def with_thresholds(self, values: Mapping[str, float]) -> RuleTable:
        """The table with other bounds.

        Raises:
            ConfigError: a bound has no such name.
        """
        if unknown := values.keys() - self.thresholds.keys():
            raise ConfigError(f"no threshold is called {sorted(unknown)[0]!r}; there are {', '.join(self.thresholds)}")
        changed = {
            name: t.model_copy(update={"value": values.get(name, t.value)}) for name, t in self.thresholds.items()
        }
        return self.model_copy(update={"thresholds": changed})


@dataclass(frozen=True)
class Tested:
    """A condition as applied."""

    signal: str
    measured: Interval | None
    threshold: str
    bound: float
    at_least: bool
    answer: Answer

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "<"
        value = "not measured" if self.measured is None else str(self.measured)
        return f"{self.signal} {value} {sign} {short(self.bound)}: {self.answer}"


@dataclass(frozen=True)
class Applied:
    """A rule as applied."""

    rule: Rule
    answer: Answer
    tested: tuple[Tested, ...]
    leaning: bool
    """Whether it would hold if every estimate were exact."""

    def open(self) -> list[Tested]:
        """The conditions that keep it undecided."""
        return [tested for tested in self.tested if tested.answer is Answer.UNDECIDED]


@cache
def rule_table() -> RuleTable:
    """The rules that come with the library."""
    text = (resources.files("posttrain.diagnosis") / "rules.yaml").read_text(encoding="utf-8")
    return RuleTable.model_validate(yaml.safe_load(text))


def apply(table: RuleTable, signals: Signals) -> list[Applied]:
    """Every rule against the signals, in the table's order."""
    return [_apply(rule, table, signals) for rule in table.rules]


def _apply(rule: Rule, table: RuleTable, signals: Signals) -> Applied:
    answers, leanings, tested = [], [], []
    for condition in rule.when:
        parts = [_test(leaf, table, signals) for leaf in condition.leaves()]
        answers.append(_any([part.answer for part in parts]))
        leanings.append(any(_leans(part) for part in parts))
        tested += parts
    return Applied(rule, _all(answers), tuple(tested), all(leanings))


def _test(leaf: Condition, table: RuleTable, signals: Signals) -> Tested:
    bound, at_least = table.thresholds[leaf.threshold].value, bool(leaf.at_least)
    measured = signals.get(leaf.signal)
    if measured is None or not measured.known:
        return Tested(leaf.signal, None, leaf.threshold, bound, at_least, Answer.UNMEASURED)
    above, under = measured.low >= bound, measured.high < bound
    decided = (above or under) and (above if at_least else under)
    answer = Answer.YES if decided else Answer.NO if above or under else Answer.UNDECIDED
    return Tested(leaf.signal, measured, leaf.threshold, bound, at_least, answer)


def _leans(tested: Tested) -> bool:
    if tested.measured is None:
        return False
    return (tested.measured.estimate >= tested.bound) is tested.at_least


# Which answer of several parts wins, strongest first.
_ANY = (Answer.YES, Answer.UNDECIDED, Answer.UNMEASURED, Answer.NO)
_ALL = (Answer.NO, Answer.UNMEASURED, Answer.UNDECIDED, Answer.YES)


def _any(answers: Sequence[Answer]) -> Answer:
    return next(answer for answer in _ANY if answer in answers)


def _all(answers: Sequence[Answer]) -> Answer:
    return next(answer for answer in _ALL if answer in answers)
