"""Opening a finished artifact, and writing one so that nothing half-written is ever taken for whole."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from posttrain.artifacts.digests import digest_directory
from posttrain.artifacts.record import REFERENCE_FILE, FileEntry, Record, by_reference, read_record
from posttrain.errors import ContractError, DataError, StorageError
from posttrain.taxonomy import Kind


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on the local disk, with its record."""

    path: Path
    record: Record

    @property
    def digest(self) -> str:
        """The artifact's digest."""
        return self.record.digest


def open_artifact(path: Path, kind: Kind) -> Artifact:
    """Read and verify the artifact at `path`, whose files are here (if they need not be: `storage.references.obtain`).

    Raises:
        DataError: it is not whole (see `read_record`), or only refers to its files.
        ContractError: it is of another kind.
    """
    record = of_kind(read_record(path), kind, path)
    if by_reference(path, record):
        raise DataError(f"{path}: its files lie where its {REFERENCE_FILE} says; give that URI to the stage recall")
    return Artifact(path, record)


def of_kind(record: Record, kind: Kind, path: Path) -> Record:
    """The record, if it is of an artifact of that kind.

    Raises:
        ContractError: it is of another.
    """
    if record.kind is not kind:
        raise ContractError(f"{path}: a {record.kind} artifact (made by {record.stage}) where a {kind} is needed")
    return record


def file_entries(directory: Path) -> dict[str, FileEntry]:
    """The record's view of the directory's content files."""
    return {
        name: FileEntry(sha256=digest, size=(directory / name).stat().st_size)
        for name, digest in digest_directory(directory).items()
    }


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _disk_full(error: Exception) -> bool:
    # Safetensors has no errno, only its text: "I/O error: No space left on device (os error 28)".
    return getattr(error, "errno", None) in _FULL or any(f"(os error {code})" in str(error) for code in _FULL)


@contextmanager
def whole_or_nothing(target: Path) -> Iterator[Path]:
    """Yield a scratch directory beside `target`, which takes the name `target` only when the block ends well.

    Raises:
        ContractError: something is at `target` already.
        StorageError: the disk is full or fails.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ContractError(f"{target}: exists already; choose another output or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        if target.exists():
            target.rmdir()
        scratch.rename(target)
    except Exception as error:
        if _disk_full(error):
            raise StorageError(f"{target}: no room left on the disk; free some or choose another output") from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
