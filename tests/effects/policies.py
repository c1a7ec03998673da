"""Quantities of tiny policies that effects are measured in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain.generation.decoding import Decoding
from posttrain.generation.transformers import load_policy, sample
from tests.training.jobs import Row, record, run


def exactly(policy: Path, demos: Sequence[Row]) -> float:
    """Share of prompts whose greedy completion is the demonstrated one."""
    model, tokenizer = load_policy(policy)
    decoding = Decoding(samples=1, max_new_tokens=8, temperature=0)
    answers = sample(model, tokenizer, [row["prompt"] for row in demos], decoding)
    return sum(mine[0].text == row["completion"] for mine, row in zip(answers, demos, strict=True)) / len(demos)


def pass_at(policy: Path, problems: Path, out: Path, samples: int, max_new_tokens: int) -> dict[str, float]:
    """The evaluation's metrics (`pass_at_1`, `pass_at_<samples>` …) of a policy on problems, trained on or not."""
    settings = {"samples": samples, "max_new_tokens": max_new_tokens, "trained_on": True, "seed": 5}
    return record(run("evaluate", out, settings, policy=policy, problems=problems)).metrics
