"""Evaluations: what a policy did on each problem. Everything in diagnosis is a function of this table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from posttrain.artifacts.record import Record
from posttrain.artifacts.rows import read_table, write_table

EVALUATION_FILE = "evaluation.parquet"


class Measured(BaseModel):
    """One problem under n samples at fixed decoding.

    The lists have one entry a sample, in the order of sampling. `answers` maps each distinct canonical answer to how
    often it was given, right or wrong; `right_answers` are the distinct right ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    problem_id: str
    slice: str
    scores: list[float | None] = Field(description="verified score in [0, 1]; None = unscorable")
    right_answers: list[str]
    answers: dict[str, int]
    tokens: list[int] = Field(description="length of each completion in tokens, the EOS token included")
    truncated: int = Field(ge=0, description="samples that hit the length limit")
    logprobs: list[float] = Field(description="log-probability of each completion under the policy, nats")

    @property
    def sampled(self) -> int:
        """How many samples were drawn."""
        return len(self.scores)

    @property
    def scored(self) -> int:
        """n: samples that could be scored."""
        return sum(score is not None for score in self.scores)

    @property
    def correct(self) -> int:
        """c: samples with the full score; partial credit is not correct."""
        return sum(score == 1 for score in self.scores)


def measured_on(evaluation: Record) -> str:
    """The digest of the problems that an evaluation was made on."""
    return next(ref.digest for ref in evaluation.parents if ref.role == "problems")


def write_evaluation(measured: Iterable[Measured], directory: Path) -> None:
    """Write one row a problem as an evaluation artifact's content."""
    write_table([row.model_dump() for row in measured], directory / EVALUATION_FILE, json_columns=["answers"])


def read_evaluation(directory: Path) -> list[Measured]:
    """The problems of an evaluation, in order.

    Raises:
        DataError: there is no evaluation file.
    """
    return [Measured(**row) for row in read_table(directory / EVALUATION_FILE, json_columns=["answers"])]
