"""The Countdown world's truth is known, so estimators, intervals and roles are checked against it."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from posttrain import verifiers
from posttrain.artifacts.evaluation import Measured
from posttrain.diagnosis.compare import compare, summarise
from posttrain.diagnosis.roles import measured_role
from posttrain.taxonomy import Role
from posttrain.worlds.countdown import Problem, build, expressions, is_right, problems, solutions, split

N = 64


def chance_of_right(problem: Problem, ops: str) -> float:
    """The exact pass@1 of a policy that draws uniformly from all expressions with these operations."""
    drawn = expressions(problem.numbers, ops)
    return sum(is_right(expression, problem.numbers, problem.target) for expression in drawn) / len(drawn)


def guess(asked: list[Problem], ops: str, seed: int, wisdom: float = 0.0) -> list[Measured]:
    """n samples a problem of a uniform guesser; with probability `wisdom` it draws a right answer that it knows."""
    rng = np.random.default_rng(seed)
    rows = []
    for problem in asked:
        drawn = expressions(problem.numbers, ops)
        known = sorted(set(drawn) & solutions(problem.numbers, problem.target))
        said = [
            str(rng.choice(known if known and rng.random() < wisdom else np.array(drawn)))  # type: ignore[arg-type]
            for _ in range(N)
        ]
        right = [is_right(expression, problem.numbers, problem.target) for expression in said]
        rows.append(
            Measured(
                problem_id=problem.row()["id"],
                slice=problem.slice,
                scores=[float(mark) for mark in right],
                answers=sorted(set(said)),
                answer_counts=[said.count(e) for e in sorted(set(said))],
                answer_right=[right[said.index(e)] for e in sorted(set(said))],
                tokens=[6] * N,
                truncated=0,
                logprobs=[-1.0] * N,
            )
        )
    return rows


@pytest.fixture(scope="module")
def held_out() -> list[Problem]:
    return list(split(seed=0).held_out)


def test_the_world_has_the_size_that_enumeration_gives() -> None:
    kinds = Counter(problem.slice for problem in problems())
    assert kinds == {"easy": 570, "hard": 1389}
    assert not any(
        "*" not in answer for p in problems() if p.slice == "hard" for answer in solutions(p.numbers, p.target)
    )


def test_the_verifier_agrees_with_the_truth_on_every_expression() -> None:
    for problem in problems()[::17]:
        truth = solutions(problem.numbers, problem.target)
        for expression in expressions(problem.numbers):
            verdict = verifiers.verify(expression, "countdown", problem.row()["reference"])
            assert verdict.score == (expression in truth), (problem, expression)


def test_training_and_held_out_problems_are_apart() -> None:
    parts = split(seed=3)
    assert not set(parts.train) & set(parts.held_out)
    assert Counter(p.slice for p in parts.held_out) == {"easy": 128, "hard": 128}


@pytest.mark.parametrize("k", [1, 2, 8, 32])
def test_pass_at_k_covers_the_truth(held_out: list[Problem], k: int) -> None:
    easy = [problem for problem in held_out if problem.slice == "easy"]
    truth = float(np.mean([1 - (1 - chance_of_right(problem, "+-")) ** k for problem in easy]))
    interval = summarise(guess(easy, "+-", seed=1)).pass_at[k]
    assert interval.low <= truth <= interval.high
    assert interval.estimate == pytest.approx(truth, abs=0.03)


def test_what_is_out_of_support_is_never_solved(held_out: list[Problem]) -> None:
    hard = [problem for problem in held_out if problem.slice == "hard"]
    summary = summarise(guess(hard, "+-", seed=2))
    assert summary.pass_at[summary.k].estimate == 0
    assert 0 < summary.pass_at[summary.k].high < 0.03


def test_new_operations_are_expansion_and_cost_some_attrition_at_most(held_out: list[Problem]) -> None:
    role = measured_role(compare(guess(held_out, "+-", 1), guess(held_out, "+-*", 2)), Role.EXPANSION)
    assert Role.EXPANSION in role.roles
    assert role.as_intended


def test_preferring_known_answers_is_reshaping_and_no_expansion(held_out: list[Problem]) -> None:
    role = measured_role(compare(guess(held_out, "+-", 1), guess(held_out, "+-", 2, wisdom=0.5)), Role.RESHAPING)
    assert role.roles == (Role.RESHAPING,)
    assert role.attrition.low == 0


def test_the_same_policy_twice_seldom_seems_to_play_a_role(held_out: list[Problem]) -> None:
    chances = np.array([chance_of_right(problem, "+-") for problem in held_out])

    def evaluation(seed: int) -> list[Measured]:
        correct = np.random.default_rng(seed).binomial(N, chances)
        return [
            Measured(
                problem_id=str(index),
                slice=problem.slice,
                scores=[1.0] * c + [0.0] * (N - c),
                answers=["right"] * min(c, 1),
                answer_counts=[c] * min(c, 1),
                answer_right=[True] * min(c, 1),
                tokens=[6] * N,
                truncated=0,
                logprobs=[-1.0] * N,
            )
            for index, (problem, c) in enumerate(zip(held_out, correct.tolist(), strict=True))
        ]

    roles = [measured_role(compare(evaluation(seed), evaluation(1000 + seed))) for seed in range(60)]
    assert sum(bool(role.roles) for role in roles) <= 3  # one end of a 95% interval errs in 2.5% of cases
    assert sum(role.attrition.low > 0 for role in roles) <= 3


def test_the_same_seed_builds_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("first", "second"):
        build(tmp_path / name, seed=5, pretraining_steps=2)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert digests[0] == digests[1]
    assert len(digests[0]) >= 7
