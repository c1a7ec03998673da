"""Scores trajectories by each row's verifier; optionally keeps only the best of them.

Unscorable rows are counted and keep a null reward: null is not zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from posttrain import verifiers
from posttrain.artifacts.rows import Row
from posttrain.artifacts.trajectories import (
    completion_text,
    problem_of,
    prompt_of,
    read_trajectories,
    write_trajectories,
)
from posttrain.errors import ContractError, DataError, VerifierError
from posttrain.progress import Progress
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind


class VerifySettings(Settings):
    """What to keep."""

    min_reward: float = Field(default=0.0, ge=0, le=1, description="keep rows with at least this reward; 0 = all")
    max_per_problem: int = Field(default=0, ge=0, description="keep at most so many rows a problem; 0 = all")
    distinct: bool = Field(default=False, description="keep one row for each distinct completion of a problem")


PARENTS = {"trajectories": ParentSpec(Kind.TRAJECTORIES, help="rows with verifier and reference, such as rollouts")}


def check(settings: VerifySettings, parents: Parents) -> None:
    """Rows must be scorable by the shape they have."""
    facts = parents.one("trajectories").record.facts
    if facts.get("shape", "prompt-completion") != "prompt-completion":
        raise ContractError(
            f"verify: {facts['shape']} rows have no single completion to score; give prompt-completion rows"
        )


def run(settings: VerifySettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Score every row, then filter."""
    source = parents.one("trajectories").path
    rows = read_trajectories(source)
    bench = score(rows, str(source), progress)
    unscorable = sum(row["reward"] is None for row in rows)
    scores = [row["reward"] for row in rows if row["reward"] is not None]
    kept = _kept(rows, settings)
    if not kept:
        raise DataError(f"verify: none of {len(rows)} trajectories reaches min_reward={settings.min_reward}; lower it")
    write_trajectories(kept, out)
    return Work(
        facts={"rows": len(kept), "shape": "prompt-completion", **bench.facts()},
        counts={
            "trajectories": len(rows),
            "unscorable": unscorable,
            "kept": len(kept),
            "dropped": len(rows) - len(kept),
        },
        metrics={"kept_share": len(kept) / len(rows), **({"mean_reward": sum(scores) / len(scores)} if scores else {})},
    )


def score(rows: list[Row], source: str, progress: Progress) -> verifiers.Bench:
    """Fill each row's reward and answer; who judged them.

    Raises:
        DataError: a row names no verifier.
        VerifierError: a row's verifier is unknown, or cannot use its reference.
    """
    bench, asks = verifiers.Bench(), []
    for number, row in enumerate(rows, start=1):
        if not row.get("verifier"):
            raise DataError(f"{source}: row {number} names no verifier; verify needs one a row")
        with _named(f"{source}: row {number}"):
            bench.add(row["verifier"])
        asks.append(verifiers.Ask(completion_text(row), row["verifier"], row.get("reference"), prompt_of(row)))
    verdicts = verifiers.verify_all(asks)
    for number, row in enumerate(rows, start=1):
        with _named(f"{source}: row {number}"):
            verdict = next(verdicts)
        row["reward"], row["answer"] = verdict.score, verdict.answer
        progress.update(number, len(rows), "trajectory")
    return bench


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Say of a verifier's complaint which row it concerns."""
    try:
        yield
    except VerifierError as error:
        raise type(error)(f"{place}: {error}") from None


def _kept(rows: list[Row], settings: VerifySettings) -> list[Row]:
    kept: list[Row] = []
    per_problem: dict[Any, int] = defaultdict(int)
    seen: set[Any] = set()
    for row in rows:
        problem = (row.get("problem_id"), problem_of(row))
        key = (problem, completion_text(row))
        if settings.min_reward > 0 and (row["reward"] is None or row["reward"] < settings.min_reward):
            continue
        if settings.distinct and key in seen:
            continue
        if 0 < settings.max_per_problem <= per_problem[problem]:
            continue
        per_problem[problem] += 1
        seen.add(key)
        kept.append(row)
    return kept


STAGE = Stage(
    name="verify",
    output="scored",
    makes=Kind.TRAJECTORIES,
    parents=PARENTS,
    settings=VerifySettings,
    run=run,
    check=check,
    image="control",
)
