"""Evaluations: what a policy did on each problem. Everything in diagnosis is a function of this table.

Written row by row, read by column: a million problems fit in memory as sums and counts. Suffix M: one value a problem.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from posttrain.artifacts.record import Record
from posttrain.artifacts.rows import write_table
from posttrain.errors import ContractError, DataError

if TYPE_CHECKING:
    import pyarrow

EVALUATION_FILE = "evaluation.parquet"
_BATCH = 8192  # problems held in full while reading

Floats = NDArray[np.float64]

# Settings of evaluate that must agree, or two evaluations measured different things. Back-ends round differently: in 16
# bits that can pass for a small effect of training.
_DECODING = ("samples", "max_new_tokens", "temperature", "top_p", "top_k", "backend")
_BEFORE_IT_WAS_RECORDED = {"backend": "transformers"}


class Measured(BaseModel):
    """One problem under n samples at fixed decoding.

    `scores`, `tokens` and `logprobs` have one entry a sample, in the order of sampling; the `answer…` lists have one
    for each distinct canonical answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    problem_id: str
    slice: str
    scores: list[float | None] = Field(description="verified score in [0, 1]; None = unscorable")
    answers: list[str] = Field(description="distinct answers; a right completion without one stands for itself")
    answer_counts: list[int] = Field(description="how often each was given")
    answer_right: list[bool] = Field(description="whether it is right")
    tokens: list[int] = Field(description="length of each completion in tokens, the EOS token included")
    truncated: int = Field(ge=0, description="samples that hit the length limit")
    logprobs: list[float] = Field(description="log-probability of each completion under the policy, nats")
    swapped: int = Field(default=0, ge=0, description="completions for other problems shown to this one's verifier")
    swapped_accepted: int = Field(default=0, ge=0, description="how many of them it accepted with the full score")

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


@dataclass(frozen=True)
class Votes:
    """Distinct answers of every problem, problem after problem; offsets[i]:offsets[i+1] are those of problem i."""

    offsets: NDArray[np.int64]  # (M + 1,)
    counts: Floats  # (V,) how often each was given
    right: NDArray[np.bool_]  # (V,)

    def take(self, index_M: NDArray[np.int64]) -> Votes:
        """The votes of some problems, in that order."""
        starts, lengths = self.offsets[:-1][index_M], np.diff(self.offsets)[index_M]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Votes(offsets, self.counts[places], self.right[places])

    def sum_by_problem(self, values_V: Floats) -> Floats:
        """Sum of a value of each answer over a problem's answers. Shape (M,)."""
        totals = np.concatenate([[0.0], np.cumsum(values_V, dtype=np.float64)])
        return totals[self.offsets[1:]] - totals[self.offsets[:-1]]


@dataclass(frozen=True)
class Evaluation:
    """A stored evaluation by column, M problems in the order of their ids."""

    problem_id_M: NDArray[Any]
    slice_M: NDArray[Any]
    sampled_M: Floats
    scored_M: Floats  # n: samples that could be scored
    correct_M: Floats  # c: samples with the full score; partial credit is not correct
    truncated_M: Floats
    score_sum_M: Floats  # over the scored samples, partial credit included
    tokens_M: Floats  # mean length of a completion
    tokens_right_M: Floats  # of a right one; NaN if there is none
    tokens_wrong_M: Floats
    tokens_sum_M: Floats
    logprob_sum_M: Floats  # log-probability of all samples together, nats
    swapped_M: Floats
    swapped_accepted_M: Floats
    votes: Votes

    @classmethod
    def of(cls, rows: Iterable[Measured]) -> Evaluation:
        """Rows by column."""
        import pyarrow

        return _from_batches([_columns(pyarrow.RecordBatch.from_pylist([row.model_dump() for row in rows], _schema()))])

    def __len__(self) -> int:
        return len(self.problem_id_M)

    def take(self, chosen: NDArray[Any]) -> Evaluation:
        """Some problems, by mask or by index."""
        index_M = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        columns = {f.name: getattr(self, f.name)[index_M] for f in fields(self) if f.name != "votes"}
        return Evaluation(**columns, votes=self.votes.take(index_M))

    @property
    def slices(self) -> list[str]:
        """The slices present, sorted."""
        return sorted(set(self.slice_M.tolist()))

    def in_slice(self, name: str) -> Evaluation:
        """The problems of one slice."""
        return self.take(self.slice_M == name)


def measured_on(evaluation: Record) -> str:
    """The digest of the problems that an evaluation was made on."""
    return next(ref.digest for ref in evaluation.parents if ref.role == "problems")


@dataclass(frozen=True)
class Conditions:
    """What two evaluations must agree on to be paired."""

    name: str
    problems: str  # digest
    verifiers: str  # names and versions
    decoding: dict[str, Any]

    @classmethod
    def of(cls, name: str, problems: str, verifiers: str, settings: dict[str, Any]) -> Conditions:
        """The conditions that an evaluation's settings amount to."""
        return cls(name, problems, verifiers, {w: settings.get(w, _BEFORE_IT_WAS_RECORDED.get(w)) for w in _DECODING})

    @classmethod
    def recorded(cls, evaluation: Record) -> Conditions:
        """Those under which a finished evaluation was made."""
        verifiers = str(evaluation.facts.get("verifiers", ""))
        return cls.of(evaluation.name, measured_on(evaluation), verifiers, evaluation.parameters)


def comparable(first: Conditions, second: Conditions) -> None:
    """Two evaluations can be paired if they measured the same problems in the same way.

    Raises:
        ContractError: they differ in problems, decoding, number of samples, or verifiers.
    """
    names = f"evaluations {first.name!r} and {second.name!r}"
    if first.problems != second.problems:
        raise ContractError(
            f"{names} are of different problems ({first.problems[:12]} and {second.problems[:12]}); measure both "
            "policies on the same"
        )
    for what, mine in first.decoding.items():
        if mine != second.decoding[what]:
            raise ContractError(f"{names} differ in {what}: {mine} and {second.decoding[what]}; measure both alike")
    if first.verifiers != second.verifiers:
        raise ContractError(
            f"{names} were scored by different verifiers ({first.verifiers} and {second.verifiers}); measure both with "
            "one version"
        )


def require_k(evaluation: Evaluation, k: int) -> None:
    """pass@k needs k scored samples of a problem.

    Raises:
        DataError: more than one problem in ten has fewer.
    """
    few = int((evaluation.scored_M < k).sum())
    if few > len(evaluation) / 10:
        fewest = int(evaluation.scored_M.min())
        raise DataError(
            f"k = {k}, but {few} of {len(evaluation)} problems have fewer scored samples (the fewest {fewest}); "
            "ask for a smaller k, or evaluate with more samples"
        )


def write_evaluation(measured: Iterable[Measured], directory: Path) -> None:
    """Write one row a problem as an evaluation artifact's content."""
    write_table([row.model_dump() for row in measured], directory / EVALUATION_FILE)


def read_evaluation(directory: Path) -> Evaluation:
    """A stored evaluation, read batch by batch.

    Raises:
        DataError: there is no evaluation file, it is not one, or it lists a problem twice.
    """
    import pyarrow
    import pyarrow.parquet

    file = directory / EVALUATION_FILE
    if not file.is_file():
        raise DataError(f"{directory}: no {EVALUATION_FILE} in it; it is not an artifact of this kind")
    try:
        with pyarrow.parquet.ParquetFile(file) as stored:
            columns = [name for name in _schema().names if name in stored.schema_arrow.names and name != "answers"]
            return _from_batches([_columns(b) for b in stored.iter_batches(_BATCH, columns=columns)])
    except (pyarrow.ArrowInvalid, KeyError) as error:
        raise DataError(f"{file}: not an evaluation ({str(error).splitlines()[0]}); evaluate again") from None


def _schema() -> pyarrow.Schema:
    import pyarrow as pa

    number, count = pa.list_(pa.float64()), pa.list_(pa.int64())
    return pa.schema(
        {
            "problem_id": pa.string(),
            "slice": pa.string(),
            "scores": number,
            "answers": pa.list_(pa.string()),
            "answer_counts": count,
            "answer_right": pa.list_(pa.bool_()),
            "tokens": count,
            "truncated": pa.int64(),
            "logprobs": number,
            "swapped": pa.int64(),
            "swapped_accepted": pa.int64(),
        }
    )


def _columns(batch: pyarrow.RecordBatch) -> dict[str, NDArray[Any]]:
    """The sums and counts of a batch of rows, and its votes as `counts`, `right` and `lengths`."""
    scores, ends = _flat(batch.column("scores"))
    tokens, token_ends = _flat(batch.column("tokens"))
    logprobs, logprob_ends = _flat(batch.column("logprobs"))
    counts, vote_ends = _flat(batch.column("answer_counts"))
    right, _ = _flat(batch.column("answer_right"))
    known, correct = ~np.isnan(scores), scores == 1
    wrong = known & ~correct
    sampled, right_M, wrong_M = np.diff(ends), _sums(correct, ends), _sums(wrong, ends)
    tokens_sum = _sums(tokens, token_ends)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "problem_id_M": batch.column("problem_id").to_numpy(zero_copy_only=False),
            "slice_M": _names(batch.column("slice")),
            "sampled_M": sampled.astype(np.float64),
            "scored_M": _sums(known, ends),
            "correct_M": right_M,
            "truncated_M": _numbers(batch, "truncated"),
            "score_sum_M": _sums(np.where(known, scores, 0), ends),
            "tokens_M": tokens_sum / np.diff(token_ends),
            "tokens_right_M": _sums(tokens * correct, ends) / right_M,
            "tokens_wrong_M": _sums(tokens * wrong, ends) / wrong_M,
            "tokens_sum_M": tokens_sum,
            "logprob_sum_M": _sums(logprobs, logprob_ends),
            "swapped_M": _numbers(batch, "swapped"),
            "swapped_accepted_M": _numbers(batch, "swapped_accepted"),
            "counts": counts,
            "right": right.astype(bool),
            "lengths": np.diff(vote_ends),
        }


def _names(texts: pyarrow.Array) -> NDArray[Any]:
    """Texts of which there are few, as objects that are shared."""
    coded = texts.dictionary_encode()
    return np.array(coded.dictionary.to_pylist(), dtype=object)[coded.indices.to_numpy()]


def _flat(lists: pyarrow.Array) -> tuple[Floats, NDArray[np.int64]]:
    """A column of lists as all its values (null as NaN) and where each list ends, from 0. Shapes (S,), (M + 1,)."""
    values = lists.flatten().cast("float64", safe=False) if len(lists) else lists.flatten()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return values.to_numpy(zero_copy_only=False).astype(np.float64), offsets - offsets[0]


def _sums(values_S: NDArray[Any], ends: NDArray[np.int64]) -> Floats:
    """Sums of the values of each list. A cumulative sum, unlike reduceat, is right for empty lists."""
    lengths = np.diff(ends)
    if len(lengths) and lengths[0] and (lengths == lengths[0]).all():  # the usual case, and three times as fast
        return values_S.reshape(-1, lengths[0]).sum(axis=1, dtype=np.float64)
    totals = np.concatenate([[0.0], np.cumsum(values_S, dtype=np.float64)])
    return totals[ends[1:]] - totals[ends[:-1]]


def _numbers(batch: pyarrow.RecordBatch, name: str) -> Floats:
    if name not in batch.schema.names:
        return np.zeros(len(batch))
    return batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64)


def _from_batches(batches: Sequence[dict[str, NDArray[Any]]]) -> Evaluation:
    if not batches:
        import pyarrow

        batches = [_columns(pyarrow.RecordBatch.from_pylist([], _schema()))]
    columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    offsets = np.concatenate([[0], np.cumsum(columns.pop("lengths"))]).astype(np.int64)
    votes = Votes(offsets, columns.pop("counts"), columns.pop("right"))
    whole, order = Evaluation(**columns, votes=votes), np.argsort(columns["problem_id_M"].astype(str), kind="stable")
    return whole if (order == np.arange(len(order))).all() else whole.take(order)
