"""`posttrain.json`: inside every artifact, what made it, from what, with what.

The record embeds its ancestors, so one directory answers for its whole lineage without access to anything else.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from posttrain.artifacts.digests import RECORD_FILE, content_files, digest_files, digest_value
from posttrain.artifacts.provenance import Trace
from posttrain.errors import DataError
from posttrain.taxonomy import Interface, Kind, Role

REFERENCE_FILE = "reference.json"  # beside the record of an artifact whose files lie elsewhere


class FileEntry(BaseModel):
    """A content file: its SHA-256 and its size in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    size: int


class ParentRef(BaseModel):
    """A parent by its role in the stage (`init`, `teacher`, `data` …): which record, and which content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: str
    kind: Kind
    id: str
    digest: str


class Environment(BaseModel):
    """The code, libraries and image that a stage ran with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    versions: dict[str, str]
    image: str = ""
    host: str = ""


class Record(BaseModel):
    """Everything an artifact says about itself. `ancestors`: id → that artifact's record, itself without any."""

    # A metric that nothing could be measured for is NaN; written as null, it would make the record unreadable.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    format: int = 1
    kind: Kind
    stage: str
    method: str
    name: str = Field(default="", description="the stage's name in its recipe")
    digest: str
    files: dict[str, FileEntry]
    interface: Interface | None = None
    role: Role | None = Field(default=None, description="the intended role; the measured one is in an evaluation")
    trace: Trace | None = Field(default=None, description="computed provenance; None where nothing was learned from")
    parents: list[ParentRef] = Field(default_factory=list)
    parameters: dict[str, Any] = Field(default_factory=dict)
    facts: dict[str, str | int | float] = Field(default_factory=dict, description="fingerprints, shapes, verdicts")
    metrics: dict[str, float] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict, description="rows read, kept, and dropped by reason")
    curves: dict[str, list[list[float]]] = Field(default_factory=dict, description="metric → [step, value] pairs")
    environment: Environment
    started: datetime
    seconds: float
    absent: str = Field(default="", description="why there is nothing here: an optional input that was not given")
    ancestors: dict[str, Record] = Field(default_factory=dict)

    @property
    def id(self) -> str:
        """Names this artifact as made: its content, by this stage, with these parameters, from these parents.

        The digest alone would not do: a stage that changes nothing (RL without a single gradient) makes its parent's
        content again, and must not be taken for its own ancestor.
        """
        parents = [[ref.role, ref.id] for ref in self.parents]
        return digest_value([self.digest, self.stage, self.method, self.name, self.parameters, parents])

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return sum(entry.size for entry in self.files.values())

    def family(self) -> dict[str, Record]:
        """This record and its ancestors by id, each without ancestors of its own."""
        return {**self.ancestors, self.id: self.model_copy(update={"ancestors": {}})}

    def parent(self, role: str) -> Record | None:
        """The record of the first parent in that role, if there is one."""
        return next((self.ancestors[ref.id] for ref in self.parents if ref.role == role), None)

    def write(self, directory: Path) -> None:
        """Write the record into the artifact. Call it last: its presence says that the artifact is whole."""
        text = self.model_dump_json(indent=1, exclude_defaults=True)
        (directory / RECORD_FILE).write_text(text + "\n", encoding="utf-8")


def has_record(directory: Path) -> bool:
    """Whether a stage finished writing this artifact."""
    return (directory / RECORD_FILE).is_file()


def read_record(directory: Path, *, verify: bool = True) -> Record:
    """Read an artifact's record and make sure that the artifact is the one recorded.

    Args:
        directory: the artifact; of one by reference only the record is here, and there is nothing to compare.
        verify: compare every file's SHA-256; without it, names and sizes only.

    Raises:
        DataError: there is no record, it is unreadable, or a file is missing, extra, cut short or changed.
    """
    path = directory / RECORD_FILE
    try:
        record = Record.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise DataError(
            f"{directory}: no {RECORD_FILE}, so no stage finished writing it; pass a finished artifact, or bring your "
            "own model or data in through the stages base and prepare"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise DataError(
            f"{path}: not a record ({str(error).splitlines()[0]}); run the stage that made it again"
        ) from None
    if not by_reference(directory, record):
        compare(directory, record, verify=verify)
    return record


def by_reference(directory: Path, record: Record) -> bool:
    """Whether the artifact's files lie elsewhere, where the file beside its record says."""
    return (directory / REFERENCE_FILE).is_file() and REFERENCE_FILE not in record.files


def compare(directory: Path, record: Record, *, verify: bool = True) -> None:
    """Make sure that a directory holds the files of a record.

    Raises:
        DataError: a file is missing, extra, cut short or changed.
    """
    found = {path.relative_to(directory).as_posix(): path for path in content_files(directory)}
    for name in sorted(found.keys() ^ record.files.keys()):
        what = "is missing" if name in record.files else "is not in the record"
        raise DataError(
            f"{directory / name}: {what}; the artifact is incomplete or was changed: make or fetch it again"
        )
    for name, entry in record.files.items():
        size = found[name].stat().st_size
        if size != entry.size:
            raise DataError(f"{found[name]}: {size} bytes instead of {entry.size}; fetch the artifact again")
    if not verify:
        return
    for (name, entry), digest in zip(
        record.files.items(), digest_files([found[name] for name in record.files]), strict=True
    ):
        if digest != entry.sha256:
            raise DataError(f"{found[name]}: content differs from its recorded SHA-256; fetch the artifact again")
