"""Evaluations: what a policy did on each problem. Everything in diagnosis is a function of this table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from posttrain.artifacts.rows import read_table, write_table

EVALUATION_FILE = "evaluation.parquet"


class Measured(BaseModel):
    """One problem under n samples at fixed decoding.

    `correct` counts scores of 1 among the `scored` samples; unscorable samples are in neither. `answers` maps each
    distinct canonical answer to how often it was given, right or wrong; `right_answers` are the distinct right ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    problem_id: str
    slice: str
    sampled: int = Field(ge=0)
    scored: int = Field(ge=0)
    correct: int = Field(ge=0)
    right_answers: list[str]
    answers: dict[str, int]
    mean_score: float | None = Field(description="mean score of the scored samples; None if none could be scored")
    tokens: list[int] = Field(description="length of each completion in tokens, the EOS token included")
    truncated: int = Field(ge=0, description="samples that hit the length limit")
    logprobs: list[float] = Field(description="log-probability of each completion under the policy, nats")


def write_evaluation(measured: Iterable[Measured], directory: Path) -> None:
    """Write one row a problem as an evaluation artifact's content."""
    write_table([row.model_dump() for row in measured], directory / EVALUATION_FILE, json_columns=["answers"])


def read_evaluation(directory: Path) -> list[Measured]:
    """The problems of an evaluation, in order.

    Raises:
        DataError: there is no evaluation file.
    """
    return [Measured(**row) for row in read_table(directory / EVALUATION_FILE, json_columns=["answers"])]
