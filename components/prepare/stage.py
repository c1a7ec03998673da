"""Data made fit to train or measure on: validated, deduplicated, decontaminated, mixed with replay; all counted.

Reads a problem file (rows with `prompt` and `verifier`) or trajectories in any of TRL's dataset shapes. What is
dropped is counted by reason; where too large a share is malformed or contaminated, the data is wrong, not dirty, and
the stage stops.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.digests import digest_value
from posttrain.artifacts.problems import Problem, read_problems, write_problems
from posttrain.artifacts.rows import Row, read_rows
from posttrain.artifacts.trajectories import is_conversational, read_trajectories, shape_of, write_trajectories
from posttrain.data.clean import Cleaning, Contamination
from posttrain.data.problems import parse_problems
from posttrain.data.trajectories import parse_trajectories, searched_text
from posttrain.errors import ContractError, DataError
from posttrain.progress import Progress
from posttrain.settings import Settings, require_uri
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.storage import fetch
from posttrain.taxonomy import Kind

T = TypeVar("T")


class PrepareSettings(Settings):
    """What to read and how strict to be."""

    uri: str = Field(description="a .jsonl, .json or .parquet file or a folder of them: a path, file:// or s3://")
    kind: Literal["problems", "trajectories"] = Field(description="what the rows are")
    optional: bool = Field(default=False, description="an empty uri is no mistake: nothing is brought in")
    source: str = Field(default="", description="where the rows come from, for the record; unset: the file's name")
    max_malformed: float = Field(
        default=0.01, ge=0, le=1, description="largest share of unusable rows before it is an error"
    )
    max_contaminated: float = Field(
        default=0.1, ge=0, le=1, description="largest share of rows found in held_out, likewise"
    )
    replay_share: float = Field(
        default=0.5, ge=0, lt=1, description="share of replay rows in the result, if replay is given"
    )
    part: Literal["", "first", "second"] = Field(
        default="", description="one half of the problems of each slice, by chance and the same every time; empty = all"
    )
    limit: int = Field(default=0, ge=0, description="keep at most so many rows, chosen at random; 0 = all")


PARENTS = {
    "held_out": ParentSpec(Kind.PROBLEMS, required=False, help="problems whose prompts must not be trained on"),
    "replay": ParentSpec(Kind.TRAJECTORIES, required=False, help="earlier trajectories to mix in against forgetting"),
}


def check(settings: PrepareSettings, parents: Parents) -> None:
    """Replay goes with trajectories only."""
    if parents.maybe("replay") and settings.kind == "problems":
        raise ContractError("prepare: replay is mixed into trajectories, not into problems; leave it out")


def run(settings: PrepareSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Read, clean, mix, write."""
    if not settings.uri:
        return Work(absent=f"{settings.name or 'this data'} was not given")
    with tempfile.TemporaryDirectory() as scratch:
        source = fetch(settings.uri, Path(scratch))
        read = read_rows(source, settings.uri)
    if not read.rows and not read.malformed:
        raise DataError(f"{settings.uri}: no rows; give data to prepare")
    cleaning = Cleaning(
        settings.uri, settings.max_malformed, settings.max_contaminated, len(read.rows) + len(read.malformed)
    )
    cleaning.malformed(read.malformed)
    held_out = parents.maybe("held_out")
    contamination = Contamination(read_problems(held_out.path) if held_out else [])
    facts: dict[str, str | int | float] = {"kind": settings.kind, "source": settings.source or Path(settings.uri).name}
    if held_out:
        facts["held_out"] = held_out.digest
    if settings.kind == "problems":
        problems = cleaning.keep(parse_problems(read, cleaning), contamination)
        problems = _limited(_half(problems, settings, cleaning), settings, cleaning)
        write_problems(problems, out)
        facts["rows"] = len(problems)
        facts["verifiers"] = ", ".join(sorted({problem.verifier for problem in problems}))
    else:
        rows = cleaning.keep(parse_trajectories(read, str(facts["source"]), cleaning), contamination)
        replay = _replay(parents.maybe("replay"), contamination, cleaning)
        mixed = _mixed(_limited(rows, settings, cleaning), replay, settings, cleaning)
        write_trajectories(mixed, out)
        facts |= {"rows": len(mixed), "shape": shape_of(mixed[0], settings.uri).name}
    progress.update(1, 1, "rows checked")
    return Work(facts=facts, counts=cleaning.counts, metrics={"rows_kept": float(facts["rows"])})


def _half(problems: list[Problem], settings: PrepareSettings, cleaning: Cleaning) -> list[Problem]:
    """One half of each slice: the two halves of a file share no problem and depend on the problems' ids alone."""
    if not settings.part:
        return problems
    kept = []
    for name in sorted({problem.slice for problem in problems}):
        ordered = sorted((p for p in problems if p.slice == name), key=lambda p: digest_value([settings.seed, p.id]))
        middle = (len(ordered) + 1) // 2
        kept += ordered[:middle] if settings.part == "first" else ordered[middle:]
    if not kept:
        raise DataError(f"{settings.uri}: too few problems to split in halves; give at least two a slice")
    cleaning.counts |= {"rows_kept": len(kept), "other_half": len(problems) - len(kept)}
    chosen = {problem.id for problem in kept}
    return [problem for problem in problems if problem.id in chosen]


def _limited(rows: list[T], settings: PrepareSettings, cleaning: Cleaning) -> list[T]:
    if not settings.limit or len(rows) <= settings.limit:
        return rows
    cleaning.counts |= {"rows_kept": settings.limit, "dropped_limit": len(rows) - settings.limit}
    kept = sorted(random.Random(settings.seed).sample(range(len(rows)), settings.limit))
    return [rows[index] for index in kept]


def _replay(parent: Artifact | None, contamination: Contamination, cleaning: Cleaning) -> list[Row]:
    """The replay rows but for those found in the held-out problems: nobody says what replay was checked against."""
    rows = read_trajectories(parent.path) if parent else []
    clean = [row for row in rows if not contamination.find(searched_text(row, shape_of(row, "replay")))]
    if rows and not clean:
        raise DataError("replay: every row's prompt is a held-out problem; give replay of other prompts")
    if len(clean) < len(rows):
        cleaning.counts["replay_held_out"] = len(rows) - len(clean)
    return clean


def _mixed(rows: list[Row], replay: list[Row], settings: PrepareSettings, cleaning: Cleaning) -> list[Row]:
    """Rows and replay in one shuffled list, replay making up its share (repeated or sampled as needed)."""
    if not replay:
        return rows
    shapes = shape_of(rows[0], settings.uri), shape_of(replay[0], "replay")
    if shapes[0] != shapes[1]:
        raise ContractError(f"{settings.uri}: {shapes[0].name} rows cannot be mixed with {shapes[1].name} replay")
    if is_conversational(rows[0], shapes[0]) != is_conversational(replay[0], shapes[1]):
        raise ContractError(f"{settings.uri}: text and messages cannot be mixed; give replay in the form of the rows")
    wanted = round(len(rows) * settings.replay_share / (1 - settings.replay_share))
    draw = random.Random(settings.seed)
    whole, rest = divmod(wanted, len(replay))
    mixed = rows + replay * whole + draw.sample(replay, rest)
    draw.shuffle(mixed)
    cleaning.counts["replay_rows"] = wanted
    return mixed


STAGE = Stage(
    name="prepare",
    output="data",
    makes=lambda settings: Kind(settings.kind),
    parents=PARENTS,
    settings=PrepareSettings,
    run=run,
    check_settings=lambda settings: require_uri(settings.uri, settings.optional),
    check=check,
    image="control",
    outside=True,
    measures=False,
)
