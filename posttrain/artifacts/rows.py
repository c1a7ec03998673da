"""Rows of data files: JSONL, JSON, Parquet. Reading counts what it cannot read; writing is byte-deterministic."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.artifacts.digests import RECORD_FILE
from posttrain.errors import DataError

Row = dict[str, Any]

SUFFIXES = (".jsonl", ".json", ".parquet")
_NOT_JSON = (ValueError, RecursionError)  # no JSON, no text, a number or a nesting too long for Python


@dataclass
class Rows:
    """What a file held: usable rows, each with its place (`file:line`), and the places that could not be read."""

    rows: list[Row] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)

    def add(self, row: Any, place: str) -> None:
        """Keep an object, count anything else as malformed."""
        if isinstance(row, dict):
            self.rows.append(row)
            self.places.append(place)
        else:
            self.malformed.append(f"{place}: {type(row).__name__} instead of an object")


def data_files(path: Path) -> list[Path]:
    """The data files that `path` is or contains, sorted.

    Raises:
        DataError: nothing is there, or nothing of a known format.
    """
    if path.is_file():
        # KFP downloads an object to a path of its own choosing, so a file without suffix is read as JSONL.
        if path.suffix not in (*SUFFIXES, ""):
            raise DataError(f"{path}: unknown format {path.suffix!r}; use {', '.join(SUFFIXES)}")
        return [path]
    if not path.exists():
        raise DataError(f"{path}: no such file or directory; give a {', '.join(SUFFIXES)} file or a folder of them")
    files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.name != RECORD_FILE and p.is_file())
    if not files:
        raise DataError(f"{path}: no {', '.join(SUFFIXES)} file in it")
    return files


def read_rows(path: Path, called: str = "") -> Rows:
    """Read every data file at `path`.

    Args:
        called: what a person calls it, as the URI that it was fetched from; by default its path.

    Raises:
        DataError: nothing to read, or a Parquet file that is not one.
    """
    read = Rows()
    for file in data_files(path):
        name = f"{called.rstrip('/')}{str(file)[len(str(path)) :]}" if called else str(file)
        if file.suffix == ".parquet":
            _read_parquet(file, name, read)
        elif file.suffix == ".json":
            _read_json(file, name, read)
        else:
            _read_jsonl(file, name, read)
    return read


def _read_parquet(file: Path, name: str, into: Rows) -> None:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{name}: not a Parquet file ({str(error).splitlines()[0]}); write it again") from None
    for number, row in enumerate(table.to_pylist(), start=1):
        into.add(row, f"{name}: row {number}")


def _read_json(file: Path, name: str, into: Rows) -> None:
    try:
        rows = json.loads(file.read_bytes())  # bytes, which may begin with a byte-order mark
    except _NOT_JSON as error:
        raise DataError(f"{name}: not JSON ({error}); write a list of objects, or JSONL") from None
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], start=1):
        into.add(row, f"{name}: row {number}")


def _read_jsonl(file: Path, name: str, into: Rows) -> None:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{name}:{number}"
            try:
                into.add(json.loads(line), place)
            except _NOT_JSON as error:
                into.malformed.append(f"{place}: not JSON ({error})")


def write_table(rows: Sequence[Row], file: Path, json_columns: Sequence[str] = ()) -> None:
    """Write rows as one Parquet file; the same rows give the same bytes.

    Args:
        json_columns: columns whose values may be of any JSON type; stored as JSON text.
    """
    import pyarrow
    import pyarrow.parquet

    columns = sorted({key for row in rows for key in row})
    data = {}
    for column in columns:
        values = [row.get(column) for row in rows]
        if column in json_columns:
            values = [json.dumps(value, sort_keys=True) for value in values]
        try:
            data[column] = pyarrow.array(values)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{file.name}: column {column!r} mixes types ({reason}); make it uniform") from None
    pyarrow.parquet.write_table(pyarrow.table(data), file, compression="zstd")


def read_table(file: Path, json_columns: Sequence[str] = ()) -> Iterator[Row]:
    """The rows that `write_table` wrote.

    Raises:
        DataError: the file is missing or not Parquet.
    """
    if not file.is_file():
        raise DataError(f"{file.parent}: no {file.name} in it; it is not an artifact of this kind")
    for row in read_rows(file).rows:
        for column in json_columns:
            row[column] = json.loads(row[column]) if row.get(column) is not None else None
        yield row
