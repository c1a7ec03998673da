"""What the steps of the study were meant to do and what they measurably did, from the stored counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from posttrain.artifacts.evaluation import Evaluation, Measured
from posttrain.diagnosis.compare import compare
from posttrain.diagnosis.diagnosis import Diagnosis
from posttrain.diagnosis.hyperparameters import role_of
from posttrain.diagnosis.roles import measured_role
from posttrain.diagnosis.rules import rule_table
from posttrain.taxonomy import Role
from study.score import Tree

# Steps that bring an earlier policy's abilities back: judged against that policy.
_RESTORING = ("restore", "merge")


@dataclass(frozen=True)
class RoleCase:
    """One step of one sequence."""

    tree: str
    path: tuple[str, ...]
    intended: Role
    measured: tuple[Role, ...]
    as_intended: bool | None
    verdict: str


def cases(tree: Tree, paths: Sequence[tuple[str, ...]], rules: Sequence[str] = ()) -> Iterator[RoleCase]:
    """The last step of each sequence.

    Args:
        rules: the rule that each was recommended by, if they were.
    """
    table = rule_table()
    by_id = {rule.id: rule for rule in table.rules}
    for path, rule in zip_longest(paths, rules, fillvalue=""):
        parent, name = path[:-1], path[-1]
        diagnosis = Diagnosis.model_validate(tree.rows[parent]["diagnosis"])
        intended = role_of(name, diagnosis, by_id.get(str(rule)), table)
        before = _original(tree) if name in _RESTORING else _exam(tree, parent)
        found = measured_role(compare(before, _exam(tree, path)), intended)
        yield RoleCase(f"{tree.world}-{tree.seed}", path, intended, found.roles, found.as_intended, found.verdict)


def _original(tree: Tree) -> Evaluation:
    return _exam(tree, (), "original" if "original" in tree.rows[()] else "exam")


def _exam(tree: Tree, path: tuple[str, ...], part: str = "exam") -> Evaluation:
    """The stored counts as an evaluation; answers and lengths were not stored."""
    counts = tree.rows[path][part]
    rows = zip(counts["slice"], counts["scored"], counts["correct"], strict=True)
    return Evaluation.of(
        Measured(
            problem_id=f"p{number:05d}",
            slice=name,
            scores=[1.0] * right + [0.0] * (scored - right),
            answers=[],
            answer_counts=[],
            answer_right=[],
            tokens=[1] * scored,
            truncated=0,
            logprobs=[0.0] * scored,
        )
        for number, (name, scored, right) in enumerate(rows)
    )
