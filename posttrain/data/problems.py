"""Rows of a problem file as problems."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from posttrain import verifiers
from posttrain.artifacts.problems import Problem, prompt_text
from posttrain.artifacts.rows import Row, Rows
from posttrain.data.clean import Candidate, Cleaning, identity
from posttrain.data.prompts import prompt_complaint, refuse_mixture
from posttrain.errors import DataError, VerifierError, nearest

_COLUMNS = ("id", "prompt", "verifier", "reference", "slice")


def parse_problems(read: Rows, cleaning: Cleaning) -> list[Candidate[Problem]]:
    """Problems with a usable prompt, verifier and reference; the others are counted as malformed.

    Columns other than a problem's are ignored and counted. Rows without `id` are numbered.

    Raises:
        DataError: a column is missing everywhere, or too many rows are unusable.
        VerifierError: a verifier does not exist.
    """
    _require_columns(read)
    candidates: list[Candidate[Problem]] = []
    complaints: list[str] = []
    ids: set[str] = set()
    for number, (row, place) in enumerate(zip(read.rows, read.places, strict=True), start=1):
        parsed = _parse(row, f"row-{number}", place)
        if isinstance(parsed, Problem) and parsed.id in ids:
            parsed = f"id {parsed.id!r} is taken by an earlier row; make ids unique"
        if isinstance(parsed, str):
            complaints.append(f"{place}: {parsed}")
            continue
        ids.add(parsed.id)
        text = prompt_text(parsed.prompt)
        candidates.append(Candidate(parsed, place, identity(text, parsed.verifier, parsed.reference), text))
    cleaning.malformed(complaints, "unusable")
    refuse_mixture(((candidate.place, candidate.value.prompt) for candidate in candidates), "prompt")
    return candidates


def _require_columns(read: Rows) -> None:
    present = {key for row in read.rows for key in row}
    for column in ("prompt", "verifier"):
        if read.rows and column not in present:
            raise DataError(f"{read.places[0]}: no column {column!r} in any row{nearest(column, present)}")


def _parse(row: Row, default_id: str, place: str) -> Problem | str:
    """The problem, or what is wrong with the row."""
    if complaint := prompt_complaint(row.get("prompt")):
        return complaint
    known: dict[str, Any] = {key: row[key] for key in _COLUMNS if row.get(key) is not None}
    known["id"] = str(known.get("id", default_id))
    try:
        problem = Problem(**known)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}={first['input']!r}: {first['msg']}"
    try:
        complaint = verifiers.validate(problem.verifier, problem.reference)
    except VerifierError as error:
        raise VerifierError(f"{place}: {error}") from None
    return f"reference {problem.reference!r}: {complaint}" if complaint else problem
