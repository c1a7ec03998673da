"""Problems: prompts with the verifier that decides an answer and the reference it needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from posttrain.artifacts.rows import read_table, write_table
from posttrain.errors import DataError

PROBLEMS_FILE = "problems.parquet"

Message = dict[str, str]
Prompt = str | list[Message]


class Problem(BaseModel):
    """One problem, for example

        {"id": "gsm-17", "prompt": "What is 3 * 5 + 7?", "verifier": "math", "reference": "22", "slice": "arithmetic"}

    `prompt` is text, or a list of {"role", "content"} messages which the policy's chat template renders. `reference` is
    whatever the verifier needs, any JSON value. `slice` groups problems in evaluations and diagnoses.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    prompt: Prompt
    verifier: str
    reference: Any = None
    slice: str = Field(default="all")

    @field_validator("prompt", mode="before")
    @classmethod
    def _without_nulls(cls, prompt: Any) -> Any:
        """Parquet gives each message the keys of all messages, null where it had none."""
        if not isinstance(prompt, list):
            return prompt
        return [{key: value for key, value in message.items() if value is not None} for message in prompt]


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one string, to compare prompts by: messages joined by newlines."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def write_problems(problems: Iterable[Problem], directory: Path) -> None:
    """Write problems as a problems artifact's content."""
    write_table([problem.model_dump() for problem in problems], directory / PROBLEMS_FILE, json_columns=["reference"])


def read_problems(directory: Path, slices: Collection[str] = ()) -> list[Problem]:
    """The problems of an artifact, in order; only those of `slices`, if any are named.

    Raises:
        DataError: there is no problems file, or no problem of those slices.
    """
    problems = [Problem(**row) for row in read_table(directory / PROBLEMS_FILE, json_columns=["reference"])]
    chosen = [problem for problem in problems if not slices or problem.slice in slices]
    if not chosen:
        present = sorted({problem.slice for problem in problems})
        raise DataError(
            f"{directory}: no problem has a slice of {sorted(slices)}; present: {', '.join(present) or 'none'}"
        )
    return chosen
