"""Trajectories: a TRL dataset with columns of provenance beside it.

The columns of the dataset's own shape (`prompt` + `completion`, `messages`, `prompt` + `chosen` + `rejected` …) stay as
TRL knows them, so the file trains as it is; every row says who sampled it and where it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.artifacts.digests import digest_value
from posttrain.artifacts.problems import prompt_text
from posttrain.artifacts.rows import Row, read_table, write_table
from posttrain.errors import DataError

TRAJECTORIES_FILE = "trajectories.parquet"

# Everything a trajectory row may carry beside its shape's columns.
PROVENANCE_COLUMNS = {
    "sampler": "digest of the policy that generated the row; null where a person or an unknown source did",
    "source": "where the row came from: a file's name, a data set, 'rollout'",
    "problem_id": "the problem it answers",
    "verifier": "the problem's verifier",
    "reference": "what the verifier needs",
    "slice": "the problem's slice",
    "reward": "verified score in [0, 1]; null = not scored or unscorable",
    "answer": "the canonical answer that the verifier extracted",
    "logprobs": "log-probability of each sampled token under the sampler, nats",
    "finish": "'eos' or 'length'",
    "chosen_sampler": "of a pair whose sides have different samplers: who generated the chosen one",
    "rejected_sampler": "and who the rejected one",
    "chosen_reward": "of a pair: the chosen completion's verified score",
    "rejected_reward": "of a pair: the rejected completion's",
    "chosen_score": "of a pair: what a reward model said of the chosen completion",
    "rejected_score": "of a pair: what it said of the rejected one",
}


@dataclass(frozen=True)
class Shape:
    """A dataset shape of TRL: its name, the columns it needs, and the column that holds the prompt, if any."""

    name: str
    columns: tuple[str, ...]
    prompt: str | None
    completions: tuple[str, ...]


# Ordered from the most to the least demanding, so that the first that fits is the right one.
SHAPES = (
    Shape("preference", ("prompt", "chosen", "rejected"), "prompt", ("chosen", "rejected")),
    Shape("stepwise", ("prompt", "completions", "labels"), "prompt", ()),
    Shape("unpaired", ("prompt", "completion", "label"), "prompt", ("completion",)),
    Shape("prompt-completion", ("prompt", "completion"), "prompt", ("completion",)),
    Shape("messages", ("messages",), None, ("messages",)),
    Shape("text", ("text",), None, ("text",)),
)


def shape_of(columns: Iterable[str], place: str) -> Shape:
    """The TRL shape that these columns form.

    Raises:
        DataError: they form none.
    """
    present = set(columns)
    for shape in SHAPES:
        if present.issuperset(shape.columns):
            return shape
    known = "; ".join(f"{shape.name}: {' + '.join(shape.columns)}" for shape in SHAPES)
    raise DataError(f"{place}: columns {sorted(present)} form no known trajectory shape; use one of {known}")


def write_trajectories(rows: Sequence[Row], directory: Path) -> None:
    """Write rows as a trajectories artifact's content. Unknown columns are refused by the stages, not here."""
    write_table(rows, directory / TRAJECTORIES_FILE, json_columns=["reference"])


def read_trajectories(directory: Path) -> list[Row]:
    """The rows of an artifact, in order.

    Raises:
        DataError: there is no trajectories file.
    """
    return list(read_table(directory / TRAJECTORIES_FILE, json_columns=_json_columns(directory)))


def _json_columns(directory: Path) -> list[str]:
    import pyarrow.parquet

    file = directory / TRAJECTORIES_FILE
    return ["reference"] if file.is_file() and "reference" in pyarrow.parquet.read_schema(file).names else []


def is_conversational(row: Mapping[str, Any], shape: Shape) -> bool:
    """Whether the row's own columns hold lists of messages rather than text."""
    return isinstance(row[shape.completions[0] if shape.completions else shape.columns[0]], list)


def last_text(texts: Any) -> str:
    """A prompt or completion as one text: itself, or its last message's."""
    return texts if isinstance(texts, str) else str(texts[-1]["content"])


def completion_text(row: Row) -> str:
    """The completion as text: the last message of a conversational one."""
    return last_text(row["completion"])


def prompt_of(row: Row) -> str:
    """The prompt as text, for verifiers that look at it."""
    return last_text(row["prompt"])


def problem_of(row: Row) -> str:
    """Names a row's problem by its prompt: ids may differ between data sets, or be those of two problems."""
    return digest_value(prompt_text(row["prompt"]))


def samplers(row: Row) -> Iterator[str | None]:
    """Who sampled each completion that the row teaches from: two for a pair, one for any other row."""
    for side in ("chosen", "rejected") if "chosen" in row else ("",):
        yield row.get(f"{side}_sampler") or row.get("sampler")
