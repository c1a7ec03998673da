"""Evaluations made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from posttrain.artifacts.evaluation import Measured

Evaluation = Callable[..., list[Measured]]


def make_evaluation(
    correct: Sequence[int], n: int | Sequence[int] = 64, slice: str = "all", first: int = 0, distinct: int = 1
) -> list[Measured]:
    """One problem for each count in `correct`, with n scored samples (or one n each) and `distinct` right answers."""
    rows = []
    for i, c in enumerate(correct):
        scored = n if isinstance(n, int) else n[i]
        answers = {f"right{j}": c // distinct + (j < c % distinct) for j in range(min(distinct, c))}
        rows.append(
            Measured(
                problem_id=f"p{first + i:04d}",
                slice=slice,
                scores=[1.0] * c + [0.0] * (scored - c) if scored else [None],
                answers=[*answers, *(["wrong"] if scored > c else [])],
                answer_counts=[*answers.values(), *([scored - c] if scored > c else [])],
                answer_right=[True] * len(answers) + [False] * (scored > c),
                tokens=[6] * max(scored, 1),
                truncated=0,
                logprobs=[-1.0] * max(scored, 1),
            )
        )
    return rows


@pytest.fixture(scope="session")  # a plain function; hypothesis refuses fixtures made anew for each test
def evaluation() -> Evaluation:
    return make_evaluation
