"""Stores a teacher's distribution at every token of given completions: its k likeliest tokens with log-probabilities.

1. The rows are tokenised as the student will be trained on them (`generation.scoring`), and cut at `max_length`.
2. One forward pass a row; nothing is sampled, so the rows may be anybody's: the teacher's, demonstrations, a mixture.
3. Log-probabilities are of the whole vocabulary at temperature 1, so what the k tokens leave out is known and reported.
The teacher is then not needed for training: many students, many runs, no second model in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from posttrain.artifacts import topk
from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import enough_room, renders, size_of
from posttrain.artifacts.policy import SHARED_FACTS
from posttrain.artifacts.trajectories import read_trajectories, write_trajectories
from posttrain.errors import ContractError
from posttrain.progress import Progress
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind

_LOW = 0.9  # a position of which the stored tokens cover less is counted


class TeacherLogitsSettings(Settings):
    """What is stored."""

    k: int = Field(default=64, gt=0, description="tokens stored a position, at most the vocabulary")
    max_length: int = Field(default=1024, gt=0, description="longest sequence in tokens; longer rows are cut")
    batch_rows: int = Field(default=64, gt=0, description="most rows in one forward pass")


PARENTS = {
    "teacher": ParentSpec(Kind.POLICY, help="the policy whose distributions are stored"),
    "data": ParentSpec(Kind.TRAJECTORIES, help="prompt-completion rows, whoever wrote them"),
}


def check(settings: TeacherLogitsSettings, parents: Parents) -> None:
    """Every row must have a prompt, which the teacher can render, and a completion."""
    teacher, data = parents.one("teacher"), parents.one("data")
    prompt_completion(data, "teacher_logits")
    context = int(teacher.record.facts.get("context", 0))
    if context and settings.max_length > context:
        raise ContractError(
            f"teacher_logits: max_length={settings.max_length} is over the teacher's context of {context}; lower it"
        )
    renders(teacher.record.facts.get("chat_template"), read_trajectories(data.path)[0]["completion"], "teacher_logits")


def prompt_completion(data: Artifact, stage: str) -> None:
    """Rows of prompts with a completion each.

    Raises:
        ContractError: they have another shape, or there are none.
    """
    shape = data.record.facts.get("shape")
    if shape != "prompt-completion":
        raise ContractError(f"{stage}: data has shape {shape!r}; give rows of prompt + completion")
    if not read_trajectories(data.path):
        raise ContractError(f"{stage}: data has no rows")


def run(settings: TeacherLogitsSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Tokenise, make room, and store row by row."""
    from posttrain.generation.scoring import top_logprobs
    from posttrain.generation.tokenizer import load_tokenizer
    from posttrain.generation.transformers import load_policy
    from posttrain.training.tokens import training_tokens

    teacher, data = parents.one("teacher"), parents.one("data")
    rows = read_trajectories(data.path)
    encoded, lengths = training_tokens(load_tokenizer(teacher.path), rows, settings.max_length)
    tokens, truncated = [len(row.completion) for row in encoded], sum(n > settings.max_length for n in lengths)
    if not any(tokens):
        raise ContractError(
            f"teacher_logits: every prompt of data has max_length={settings.max_length} tokens or more; raise it"
        )
    k = min(settings.k, int(teacher.record.facts["vocabulary"]))
    enough_room(out, sum(tokens) * k * topk.BYTES)
    ids, logprobs = topk.create(out, tokens, k)
    start, mass, low = topk.offsets(tokens), 0.0, 0
    model, _ = load_policy(teacher.path)
    steps: Any = lambda done, total: progress.update(done, total, "row")  # noqa: E731
    for row, ids_TK, logprobs_TK in top_logprobs(model, encoded, k, settings.batch_rows, steps):
        own = slice(start[row], start[row + 1])
        # Half floats end at −65504; a token that is ruled out has −∞.
        ids[own], logprobs[own] = ids_TK, logprobs_TK.clip(min=-60000)
        covered_T = topk.probabilities(logprobs[own]).sum(-1)
        mass, low = mass + float(covered_T.sum()), low + int((covered_T < _LOW).sum())
    ids.flush()
    logprobs.flush()
    write_trajectories([row | {topk.COLUMN: count} for row, count in zip(rows, tokens, strict=True)], out)
    total = max(sum(tokens), 1)
    shared = {f"teacher_{fact}": teacher.record.facts.get(fact, "") for fact in (*SHARED_FACTS, "vocabulary")}
    return Work(
        facts={**data.record.facts, "teacher": teacher.digest, "k": k, "max_length": settings.max_length, **shared},
        counts={"rows": len(rows), "tokens": sum(tokens), "truncated": truncated},
        metrics={"coverage": mass / total, "low_coverage_share": low / total},
    )


STAGE = Stage(
    name="teacher_logits",
    output="trajectories",
    makes=Kind.TRAJECTORIES,
    parents=PARENTS,
    settings=TeacherLogitsSettings,
    run=run,
    check=check,
    size=lambda parents: size_of(parents.one("data")),
)
