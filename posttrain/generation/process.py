"""Scores of the steps of given solutions under a process reward model: forward passes only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForTokenClassification

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.problems import Prompt
from posttrain.errors import DataError
from posttrain.generation.engine import OnProgress
from posttrain.generation.scoring import by_length, load_scorer, padded
from posttrain.generation.steps import split_steps
from posttrain.generation.tokenizer import load_tokenizer
from posttrain.generation.transformers import evaluating

Solution = tuple[Prompt, str]


class StepScorer:
    """A process reward model, loaded once. Its own tokenizer and template apply; they need not be the policy's.

    Raises:
        PolicyError: the weights have no head of one label a token.
    """

    def __init__(self, process_reward_model: Artifact, batch_rows: int = 64) -> None:
        self.separator = str(process_reward_model.record.facts["separator"])
        self._model = load_scorer(process_reward_model.path, AutoModelForTokenClassification)
        self._tokenizer = load_tokenizer(process_reward_model.path)
        self._batch_rows = batch_rows
        self._limit = int(process_reward_model.record.facts.get("context", 0))

    def __call__(self, solutions: Sequence[Solution], on_progress: OnProgress | None = None) -> list[list[float]]:
        """P(right) at the end of every step of each solution; no step, no score.

        Raises:
            DataError: a solution is longer than the model's context.
        """
        cut = [split_steps(self._tokenizer, *solution, self.separator) for solution in solutions]
        longest = max((len(steps.ids) for steps in cut), default=0)
        if self._limit and longest > self._limit:
            raise DataError(
                f"a solution has {longest} tokens, over the process reward model's context of {self._limit}; "
                "lower max_new_tokens"
            )
        scores = token_scores(self._model, [steps.ids for steps in cut], self._batch_rows, on_progress)
        return [[scores_T[end - 1] for end in steps.ends] for steps, scores_T in zip(cut, scores, strict=True)]


def token_scores(
    model: Any, rows: Sequence[list[int]], batch_rows: int, on_progress: OnProgress | None = None
) -> list[list[float]]:
    """P(right) at every token of each row of token ids."""
    scores: list[list[float]] = [[] for _ in rows]
    with evaluating(model), torch.inference_mode():
        for members in by_length(rows, batch_rows, on_progress):
            batch = padded([rows[index] for index in members], 0, model.device)
            scores_BT = model(**batch).logits[..., 0].double().sigmoid().tolist()
            for index, scores_T in zip(members, scores_BT, strict=True):
                scores[index] = scores_T[: len(rows[index])]
    return scores
