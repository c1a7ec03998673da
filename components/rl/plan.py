"""What a run trains on: which problems, in which order, and which of them start with a hint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.evaluation import measured_on, read_evaluation
from posttrain.artifacts.problems import Problem, read_problems
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ContractError
from posttrain.stage import Parents
from posttrain.training.hints import hints_for

Curriculum = Literal["none", "edge", "easy_to_hard"]


@dataclass(frozen=True)
class Plan:
    """Problems in their order, a demonstrated answer for those that are hinted (by id), and what was left out."""

    problems: list[Problem]
    hints: dict[str, str]
    counts: Counter[str]


def planned(parents: Parents, slices: Collection[str], curriculum: Curriculum, a_step: int) -> Plan:
    """The plan of a run.

    Hints are for the problems that the evaluation never saw solved; without one, for all that have a hint.

    Args:
        a_step: problems that one sampling takes.

    Raises:
        ContractError: the evaluation is of other problems, no hint fits, or the curriculum leaves no problem.
    """
    source, evaluation, demonstrations = parents.one("problems"), parents.maybe("evaluation"), parents.maybe("hints")
    problems = read_problems(source.path, slices)
    rates = solve_rates(evaluation, source) if evaluation else {}
    hints: dict[str, str] = {}
    counts: Counter[str] = Counter()
    if demonstrations:
        wanting = {problem.id for problem in problems if not evaluation or rates.get(problem.id) == 0}
        hints, counts = hints_for(problems, read_trajectories(demonstrations.path), wanting)
    kept, left_out = arranged(problems, curriculum, rates, hints, a_step)
    if not kept:
        raise ContractError(
            f"rl: curriculum={curriculum} leaves none of {len(problems)} problems ({dict(left_out)}); measure more "
            "samples, give others, or give hints for those that are never solved"
        )
    return Plan(kept, hints, Counter({"problems": len(kept), **counts, **left_out}))


def solve_rates(evaluation: Artifact, problems: Artifact) -> dict[str, float]:
    """c / n of each problem that could be scored at all, by id.

    Raises:
        ContractError: the evaluation is of other problems.
    """
    if measured_on(evaluation.record) != problems.digest:
        raise ContractError(
            "rl: the evaluation was made on other problems; evaluate the policy on these (trained_on=true, to choose "
            "among them)"
        )
    measured = read_evaluation(evaluation.path)
    scored = measured.scored_M > 0
    rates_M = measured.correct_M[scored] / measured.scored_M[scored]
    return dict(zip(measured.problem_id_M[scored].tolist(), rates_M.tolist(), strict=True))


def arranged(
    problems: Sequence[Problem], curriculum: Curriculum, rates: dict[str, float], hinted: Collection[str], a_step: int
) -> tuple[list[Problem], Counter[str]]:
    """The problems of a curriculum, and what it leaves out.

    edge: those solved sometimes, whose groups can have a contrast (2512.07783), and the hinted ones. easy_to_hard: all
    measured ones, the most often solved first (2506.06632); without the easiest ones that make no whole sampling, for
    TRL drops an unfilled last one, which would be the hardest.

    Args:
        hinted: ids of problems that a hint makes solvable.
        a_step: problems that one sampling takes.
    """
    if curriculum == "none":
        return list(problems), Counter()
    measured = [problem for problem in problems if problem.id in rates]
    unmeasured = len(problems) - len(measured)
    if curriculum == "easy_to_hard":
        ordered = sorted(measured, key=lambda problem: -rates[problem.id])
        remainder = len(ordered) % a_step
        return ordered[remainder:], Counter(unmeasured=unmeasured, remainder=remainder)
    edge = [0 < rates[problem.id] < 1 or problem.id in hinted for problem in measured]
    kept = [problem for problem, stays in zip(measured, edge, strict=True) if stays]
    rest = [rates[problem.id] for problem, stays in zip(measured, edge, strict=True) if not stays]
    return kept, Counter(unmeasured=unmeasured, never_solved=rest.count(0.0), always_solved=rest.count(1.0))
