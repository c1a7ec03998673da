"""Large models pass between stages by reference: the record travels, the files lie once in a store.

    <store>/<name>-<digest>/    an ordinary Hugging Face directory with its record, for vLLM and KServe to serve from

KFP's launcher copies an artifact's files one after the other, out of one pod and into the next. Where the environment
names a store, a task hands on the record and a `reference.json` instead; who opens that fetches the files side by side
and verifies them against the record. The pod's own credentials must reach the store: the launcher's are not lent.
"""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from posttrain.artifacts.artifact import Artifact, of_kind, whole_or_nothing
from posttrain.artifacts.contracts import enough_room
from posttrain.artifacts.digests import RECORD_FILE, digest_value
from posttrain.artifacts.record import REFERENCE_FILE, Record, by_reference, compare, read_record
from posttrain.errors import ConfigError, DataError
from posttrain.storage.cache import cache_from
from posttrain.storage.exchange import fetch, publish, read_text, refuse_others, write_text
from posttrain.storage.store import open_store
from posttrain.storage.uris import parse, segment
from posttrain.taxonomy import Kind

STORE_VARIABLE = "POSTTRAIN_STORE"  # a path, file:// or s3://bucket/prefix; empty = everything inline
INLINE_VARIABLE = "POSTTRAIN_INLINE_BYTES"  # what is smaller than so many bytes stays inline
_INLINE_BYTES = 256 * 2**20  # seconds of the launcher's time; below that a second place is not worth having
_MARKER = "store.json"  # put there to see whether anything may be
_MODELS = (Kind.POLICY, Kind.REWARD_MODEL, Kind.PROCESS_REWARD_MODEL)


class Reference(BaseModel):
    """Where an artifact's files lie. Their names, sizes and digests are in the record beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    uri: str


def obtain(path: Path, kind: Kind, files: bool = True) -> Artifact:
    """Open and verify the artifact at `path`, its files fetched if it only refers to them.

    Args:
        files: they are needed; without them the record and the reference are enough.

    Raises:
        DataError: it is not whole, here or where its files lie.
        ContractError: it is of another kind, or the disk has no room for it.
        StorageError: the store failed or refused.
    """
    record = of_kind(read_record(path), kind, path)
    if not files or not by_reference(path, record):
        return Artifact(path, record)
    return Artifact(_fetched(reference_at(path).uri, record), record)


def publish_artifact(artifact: Artifact, uri: str) -> None:
    """Put an artifact at `uri`, its record last; what lies in the same service is copied there by it.

    Raises:
        ContractError: something else is there already.
        DataError: its files are not as recorded.
        StorageError: the store failed or refused.
    """
    path, record = artifact.path, artifact.record
    if by_reference(path, record):
        source, target = open_store(reference_at(path).uri), open_store(uri)
        refuse_others(target, {*record.files, RECORD_FILE})
        if target.copy(source, record.files):
            target.put({RECORD_FILE: path / RECORD_FILE})
            return
        path = obtain(path, record.kind).path
    publish(path, uri)


def reference_at(path: Path) -> Reference:
    """What an artifact by reference refers to.

    Raises:
        DataError: the file is not a reference.
    """
    file = path / REFERENCE_FILE
    try:
        return Reference.model_validate_json(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValidationError):
        raise DataError(f"{file}: not a reference; run the stage that made it again") from None


def _fetched(uri: str, record: Record) -> Path:
    scratch = Path(_scratch().name)
    if parse(uri).scheme != "file" and not cache_from(os.environ):  # else it is read where it is, or where it is kept
        enough_room(scratch, record.size)
    local = fetch(uri, scratch / digest_value(uri)[:16])
    compare(local, record)
    return local


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """For as long as this process runs: a stage reads its parents to its end."""
    return tempfile.TemporaryDirectory(prefix="posttrain-parents-")


def check_store(kind: Kind) -> None:
    """See that what a stage makes can be handed on, before it is made.

    Raises:
        ConfigError: the threshold is no number.
        RefusedError: the store does not exist, or nothing may be put there.
        StorageError: it failed.
    """
    if store() and kind in _MODELS:
        _threshold()
        write_text(f"{store()}/{_MARKER}", '{"format": 1}\n')


def hand_on(directory: Path, record: Record) -> str:
    """Move a large model's files to the store, if there is one, and leave a reference; anything else stays as it is.

    Files that lie there already, as after the retry of a task or of a policy that is handed on, are not sent again.

    Returns:
        Where the files are; empty if they stayed.

    Raises:
        ConfigError: the threshold is no number.
        StorageError: the store failed or refused; the artifact is then as it was.
    """
    if by_reference(directory, record):  # taken over from an earlier run, or made on other nodes
        return reference_at(directory).uri
    if not _by_store(record):
        return ""
    uri = put_below(store(), directory, record)
    _replace(directory, record, uri)
    return uri


def put_below(place: str, directory: Path, record: Record) -> str:
    """Put an artifact's files below a URI, unless they lie there, or already where its reference says.

    Returns:
        Where they are.

    Raises:
        StorageError: the store failed or refused.
    """
    if by_reference(directory, record):
        return reference_at(directory).uri
    uri = f"{place}/{segment(record.name)}-{content_of(record)[:16]}"
    if read_text(f"{uri}/{RECORD_FILE}") is None:
        publish(directory, uri)
    return uri


def content_of(record: Record) -> str:
    """A digest of every file, logs too, and the record's id: who finds it finds these bytes, recorded the same way."""
    return digest_value([record.id, {name: entry.sha256 for name, entry in record.files.items()}])


def take(uri: str, kind: Kind, directory: Path) -> Record:
    """Make what a job left at `uri` a stage's artifact: by reference what `hand_on` would move, else with its files.

    Raises:
        DataError: it is not there, or not as recorded.
        ContractError: it is of another kind, or something is in the directory.
        StorageError: the store failed or refused.
    """
    text = read_text(f"{uri}/{RECORD_FILE}")
    if text is None:
        raise DataError(f"{uri}: no {RECORD_FILE}, so no stage finished writing it; run the stage again")
    with whole_or_nothing(directory) as scratch:
        (scratch / RECORD_FILE).write_text(text, encoding="utf-8")
        (scratch / REFERENCE_FILE).write_text(_told(uri), encoding="utf-8")
        record = of_kind(read_record(scratch), kind, scratch)
        if not _by_store(record):
            (scratch / REFERENCE_FILE).unlink()
            enough_room(scratch, record.size)
            open_store(uri).get({name: scratch / name for name in record.files})
            compare(scratch, record)
    return record


def store() -> str:
    """Where large models go; empty if nowhere is named."""
    return os.environ.get(STORE_VARIABLE, "").rstrip("/")


def _by_store(record: Record) -> bool:
    return bool(store()) and record.kind in _MODELS and record.size >= max(1, _threshold())


def _told(uri: str) -> str:
    return Reference(uri=uri).model_dump_json(indent=1) + "\n"


def _threshold() -> int:
    given = os.environ.get(INLINE_VARIABLE, "")
    if given and not given.isdigit():
        raise ConfigError(f"{INLINE_VARIABLE}={given}: give a number of bytes")
    return int(given) if given else _INLINE_BYTES


def _replace(directory: Path, record: Record, uri: str) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as aside:
        small = Path(aside) / "small"
        small.mkdir()
        (small / REFERENCE_FILE).write_text(_told(uri), encoding="utf-8")
        record.write(small)
        directory.rename(Path(aside) / "large")
        small.rename(directory)
