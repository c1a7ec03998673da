"""From signals to a decision: which rule holds, which step comes next, what would change the answer.

The rules are walked in their order. Every undecided rule before the first that holds is a contender: the decision
stands only if all of them lead to the same next step, else it is undecided, and the branches say what to compare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.diagnosis.rules import Answer, Applied, Rule, RuleTable, Signals, Tested, apply
from posttrain.recipes.compose import step

STOP = ""
NOTHING = Rule.model_construct(
    id="–",
    diagnosis="nothing",
    title="No rule holds",
    when=[],
    note=False,
    then=[],
    excludes=[],
    remedy="Nothing that was measured calls for a stage. Measure more, or stop.",
    because=["rules.yaml"],
)


@dataclass(frozen=True)
class Branch:
    """A rule that may hold, and the steps that it leads to."""

    rule: Rule
    answer: Answer
    tested: tuple[Tested, ...]
    leaning: bool
    steps: tuple[str, ...]
    """What is left of the remedy; empty = stop."""
    lacking: tuple[str, ...]
    """Inputs that would allow a remedy, where none can be taken."""

    @property
    def next_step(self) -> str:
        """The step to take now; STOP if there is none."""
        return self.steps[0] if self.steps else STOP


@dataclass(frozen=True)
class Decision:
    """What the rules say."""

    branches: tuple[Branch, ...]
    """Contenders in order, the rule that holds last."""
    notes: tuple[Applied, ...]
    applied: tuple[Applied, ...]

    @property
    def decided(self) -> bool:
        """Whether every rule that may hold leads to the same step."""
        return len({branch.next_step for branch in self.branches}) == 1

    @property
    def best(self) -> Branch:
        """The rule that holds, or the one that would if every estimate were exact."""
        return next((branch for branch in self.branches if branch.leaning), self.branches[-1])

    @property
    def next_step(self) -> str:
        """The step to take, decided or not."""
        return self.best.next_step


def decide(
    signals: Signals, inputs: Sequence[str], taken: Sequence[str], table: RuleTable, refused: Sequence[str] = ()
) -> Decision:
    """Apply the rules.

    Args:
        signals: name → interval.
        inputs: the optional inputs at hand (demos, teacher, …).
        taken: steps taken so far, oldest first: a remedy is continued where it was left.
        refused: steps that were tried from here and rolled back. A rule that leads to nothing else is passed over.
    """
    applied = [entry for entry in apply(table, signals) if _in_season(entry.rule, taken)]
    notes = tuple(entry for entry in applied if entry.rule.note and _holds(entry))
    excluded = {name for note in notes for name in note.rule.excludes}
    branches = []
    for entry in applied:
        if entry.rule.note or entry.answer not in (Answer.YES, Answer.UNDECIDED):
            continue
        branch = _branch(entry, inputs, set() if entry.rule.regardless else excluded, taken, refused)
        if branch is None:
            continue
        branches.append(branch)
        if entry.answer is Answer.YES:
            break
    else:
        branches.append(Branch(NOTHING, Answer.YES, (), True, (), ()))
    return Decision(tuple(branches), notes, tuple(applied))


def _holds(note: Applied) -> bool:
    """A note only narrows the choice, so the estimate is enough."""
    return note.answer is Answer.YES or (note.answer is Answer.UNDECIDED and note.leaning)


def _in_season(rule: Rule, taken: Sequence[str]) -> bool:
    if rule.opening and taken:
        return False
    return not rule.after or (bool(taken) and taken[-1] in rule.after)


def _branch(
    entry: Applied, inputs: Sequence[str], excluded: set[str], taken: Sequence[str], refused: Sequence[str]
) -> Branch | None:
    """Where a rule leads; None if all that it leads to was tried.

    A rule that speaks only after some steps is an offer to go on: where its inputs are not at hand, others decide.
    """
    lacking, spent = [], False
    for remedy in entry.rule.then:
        if excluded & set(remedy):
            continue
        missing = list(dict.fromkeys(need for name in remedy for need in step(name).needs if need not in inputs))
        lacking += [need for need in missing if need not in lacking]
        if missing:
            continue
        left = left_of(remedy, taken)
        if not left or not _tried(left[0], taken, refused):
            return Branch(entry.rule, entry.answer, entry.tested, entry.leaning, left, ())
        spent = True
    if spent or (lacking and entry.rule.after):
        return None
    return Branch(entry.rule, entry.answer, entry.tested, entry.leaning, (), tuple(lacking))


def _tried(name: str, taken: Sequence[str], refused: Sequence[str]) -> bool:
    """Whether a step was rolled back from here, or is the last one taken and has nothing new to learn from."""
    return name in refused or (list(taken[-1:]) == [name] and not step(name).repeats)


def left_of(remedy: Sequence[str], taken: Sequence[str]) -> tuple[str, ...]:
    """What is left of a remedy whose first steps may have been the last ones taken; its last step can be repeated."""
    for done in range(len(remedy), 0, -1):
        if list(taken[-done:]) == list(remedy[:done]):
            return tuple(remedy[min(done, len(remedy) - 1) :])
    return tuple(remedy)


def settling(tested: Tested, problems: int) -> int:
    """About how many problems would settle an undecided condition: intervals narrow with the root of their number."""
    if tested.measured is None:
        return 0
    distance = abs(tested.measured.estimate - tested.bound)
    width = tested.measured.width / 2
    return problems if distance >= width else math.ceil(problems * (width / max(distance, width / 10)) ** 2)
