"""A process reward model as the reward of an online trainer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.problems import Problem
from posttrain.generation.steps import AGGREGATES

NAME = "process_reward_model"  # under which TRL logs its scores


def process_reward(
    process_reward_model: Artifact, problems: Sequence[Problem], counts: Counter[str], aggregate: str = "min"
) -> Callable[..., list[float | None]]:
    """A TRL reward function: the steps' P(right) under a process reward model, in one number a completion, in [0, 1].

    It needs no tokenizer of the trainer's (None): the model cuts the text into steps with its own. A completion
    without a token has no step, and no score (None).

    Args:
        problems: the column `problem` of the trainer's rows counts in them (`posttrain.training.online`).
        counts: gains `without_steps`.
        aggregate: one of `AGGREGATES`. `min` cannot be raised by adding easy steps, as `mean` can, nor by leaving
            out right ones, as `product` can.
    """
    from posttrain.generation.process import StepScorer

    scorer, combine = StepScorer(process_reward_model), AGGREGATES[aggregate]

    def scored(completions: list[Any], problem: list[int], **columns: Any) -> list[float | None]:
        texts = [each if isinstance(each, str) else str(each[-1]["content"]) for each in completions]
        steps = scorer([(problems[index].prompt, text) for index, text in zip(problem, texts, strict=True)])
        counts["without_steps"] += sum(not scores for scores in steps)
        return [combine(scores) if scores else None for scores in steps]

    scored.__name__ = NAME
    return scored
