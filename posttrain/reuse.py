"""What an earlier run finished is not made again: one stage, settings, parents and versions make one artifact.

`posttrain run --resume` names the folder of earlier runs in the environment. A stage that reads or changes what lies
outside its parents (a URI, a registry) is always run; those after it are found again if it made the same as before.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from posttrain.artifacts.artifact import whole_or_nothing
from posttrain.artifacts.digests import RECORD_FILE
from posttrain.artifacts.record import Record, by_reference, read_record
from posttrain.errors import DataError
from posttrain.progress import Progress
from posttrain.storage import read_text
from posttrain.storage.references import reference_at

RUNS_VARIABLE = "POSTTRAIN_REUSE"
_ARTIFACTS = "*/artifacts/*/*/*"  # run, pipeline, task and output, as KFP's local runner lays them out


def take_over(out: Path, page: Path | None, wanted: Mapping[str, Any], progress: Progress) -> Record | None:
    """Put an earlier run's artifact and page at `out` and `page`, if there is one just like the one wanted.

    Args:
        wanted: fields of the record that it must have.

    Returns:
        Its record; None if there is none.
    """
    for found in _earlier(wanted):
        try:
            record = read_record(found)
            _require_files(found, record)
        except DataError as error:
            progress.say(f"not reused: {error}")
            continue
        _link(found, out)
        if page is not None and (old := found.parent / page.name).is_file():
            shutil.copyfile(old, page)
        progress.say(f"reused: {found}")
        return record
    return None


def _earlier(wanted: Mapping[str, Any]) -> Iterator[Path]:
    """Artifacts whose records say what is wanted, those of the newest runs first."""
    runs = os.environ.get(RUNS_VARIABLE, "")
    files = list(Path(runs).glob(f"{_ARTIFACTS}/{RECORD_FILE}")) if runs else []
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        if file.parent.name.startswith(".") or not _of_the_stage(file, wanted):
            continue
        try:
            record = read_record(file.parent, verify=False)
        except DataError:
            continue
        if all(getattr(record, field) == value for field, value in wanted.items()) and _as_now(record):
            yield file.parent


def _of_the_stage(file: Path, wanted: Mapping[str, Any]) -> bool:
    """A look that costs little: a record with its ancestors is long, and there may be hundreds."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        return False
    return isinstance(told, dict) and all(told.get(field) == wanted[field] for field in ("stage", "name"))


def _as_now(record: Record) -> bool:
    """Whether the libraries that it was made with are those that are installed here."""
    for name, version in record.environment.versions.items():
        try:
            if name != "python" and metadata.version(name) != version:
                return False
        except metadata.PackageNotFoundError:  # vLLM's build for CPUs is distributed under another name
            continue
    return True


def _require_files(found: Path, record: Record) -> None:
    if by_reference(found, record) and read_text(f"{reference_at(found).uri}/{RECORD_FILE}") is None:
        raise DataError(f"{reference_at(found).uri}: no longer there")


def _link(found: Path, out: Path) -> None:
    """Without a copy where the disk can: no artifact is changed once it is whole."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    with whole_or_nothing(out) as scratch:
        shutil.copytree(found, scratch, dirs_exist_ok=True, copy_function=link)
