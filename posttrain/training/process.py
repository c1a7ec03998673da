"""A process reward model as the reward of an online trainer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.problems import Problem
from posttrain.artifacts.trajectories import last_text


def process_reward(
    process_reward_model: Artifact, problems: Sequence[Problem], counts: Counter[str]
) -> Callable[..., list[float | None]]:
    """A TRL reward function: the least P(right) of a completion's steps under a process reward model, in [0, 1].

    The least cannot be raised by adding easy steps, as a mean can, nor by leaving out right ones, as a product can.

    It needs no tokenizer of the trainer's (None): the model cuts the text into steps with its own. A completion
    without a token has no step, and no score (None).

    Args:
        problems: the column `problem` of the trainer's rows counts in them (`posttrain.training.online`).
        counts: gains `without_steps`.
    """
    from posttrain.generation.process import StepScorer

    scorer = StepScorer(process_reward_model)

    def scored(completions: list[Any], problem: list[int], **columns: Any) -> list[float | None]:
        texts = [last_text(each) for each in completions]
        steps = scorer([(problems[index].prompt, text) for index, text in zip(problem, texts, strict=True)])
        counts["without_steps"] += sum(not scores for scores in steps)
        return [min(scores) if scores else None for scores in steps]

    return scored
