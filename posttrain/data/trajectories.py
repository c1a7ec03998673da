"""Rows of TRL's dataset shapes as trajectories."""

from __future__ import annotations

from typing import Any

from posttrain.artifacts.rows import Row, Rows
from posttrain.artifacts.trajectories import PROVENANCE_COLUMNS, Shape, shape_of
from posttrain.data.clean import Candidate, Cleaning, identity
from posttrain.data.prompts import messages_complaint, prompt_complaint, refuse_mixture


def parse_trajectories(read: Rows, source: str, cleaning: Cleaning) -> list[Candidate[Row]]:
    """Rows with their shape's columns filled; provenance columns kept, `source` added, other columns dropped.

    Raises:
        DataError: the columns form no shape, text and messages are mixed, or too many rows are unusable.
    """
    if not read.rows:
        return []
    columns = {key for row in read.rows for key, value in row.items() if value is not None}
    shape = shape_of(columns, read.places[0])
    ignored = columns - set(shape.columns) - PROVENANCE_COLUMNS.keys()
    if ignored:
        cleaning.counts["columns_ignored"] = len(ignored)
    candidates: list[Candidate[Row]] = []
    complaints: list[str] = []
    for row, place in zip(read.rows, read.places, strict=True):
        if complaint := _complaint(row, shape):
            complaints.append(f"{place}: {complaint}")
            continue
        kept = {key: row[key] for key in (*shape.columns, *PROVENANCE_COLUMNS) if row.get(key) is not None}
        kept.setdefault("source", source)
        candidates.append(Candidate(kept, place, identity(*(row[c] for c in shape.columns)), searched_text(row, shape)))
    cleaning.malformed(complaints, "unusable")
    for column in shape.columns:
        refuse_mixture(((candidate.place, candidate.value[column]) for candidate in candidates), column)
    return candidates


def _complaint(row: Row, shape: Shape) -> str | None:
    for column in shape.columns:
        if row.get(column) is None:
            return f"no {column!r}, which a {shape.name} row needs"
    if shape.prompt and (complaint := prompt_complaint(row[shape.prompt])):
        return complaint
    for column in shape.completions:
        value = row[column]
        if isinstance(value, list) and (complaint := messages_complaint(value, column)):
            return complaint
        if not isinstance(value, str | list) or (isinstance(value, str) and not value.strip()):
            return f"{column}={value!r} is empty or not text"
    return None


def searched_text(row: Row, shape: Shape) -> str:
    """The text to look for held-out prompts in: the prompt; without one, everything."""
    value: Any = row[shape.prompt] if shape.prompt else row[shape.columns[0]]
    if isinstance(value, str):
        return value
    return "\n".join(f"{message['role']}: {message['content']}" for message in value)
