"""Samples kept beside an evaluation: for people to look at, and to score again under another model without sampling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from posttrain.artifacts.problems import Prompt
from posttrain.artifacts.rows import read_table, write_table

SAMPLES_FILE = "samples.parquet"


class Sampled(BaseModel):
    """One completion of an evaluated policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    problem_id: str
    slice: str
    prompt: Prompt
    completion: str
    logprobs: list[float]  # of each token under the policy that sampled it, nats; the EOS token included
    score: float | None
    finish: str


def write_samples(samples: Sequence[Sampled], directory: Path) -> None:
    """Write them into an evaluation artifact; no file if none were kept."""
    if samples:
        write_table([row.model_dump() for row in samples], directory / SAMPLES_FILE, json_columns=["prompt"])


def read_samples(directory: Path) -> list[Sampled]:
    """The samples that were kept, none if none were."""
    if not (directory / SAMPLES_FILE).is_file():
        return []
    return [Sampled(**row) for row in read_table(directory / SAMPLES_FILE, json_columns=["prompt"])]
