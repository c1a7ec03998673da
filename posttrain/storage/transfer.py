"""Many and large objects, fast and checked: ranges fetched and parts sent side by side, straight from and to files.

Sent: every part carries its CRC-64, which the store compares with what arrived, and so does the whole. Fetched: ranges
are read into one small buffer per connection, written at their offset and summed up on the way; their sums together
must give what the store keeps for the whole. No memory is needed by the size of an object.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from uuid import uuid4

from posttrain.errors import DataError
from posttrain.storage.checksums import FIELD, OURS, checksum, combined, encoded, kept
from posttrain.storage.failures import absent
from posttrain.storage.options import S3Options
from posttrain.storage.retries import Damaged, may_pass
from posttrain.storage.sources import Stretch, buffer, size_of
from posttrain.storage.store import PARTIAL, Source
from posttrain.storage.workers import Workers

MIB = 1024 * 1024
SMALLEST, LARGEST = 8 * MIB, 64 * MIB  # of a part
MOST = 10_000  # parts of an object in S3
# Bytes a second of an answer that is worth waiting for: so slowly a part takes hours, and 32 connections that share a
# line of 256 kbit/s are still faster.
SLOWEST = 1024


@dataclass
class _Fetch:
    """An object on its way into a file: what the store says of it, and its stretches with their checksums to come."""

    key: str
    path: Path
    partial: Path  # the file until it is whole
    size: int = 0
    etag: str = ""
    kind: str = ""
    checksum: str = ""  # stays so where the store keeps none of the whole
    parts: list[tuple[int, Future[int]]] = field(default_factory=list)


@dataclass
class _Upload:
    """A multipart upload, and its stretches with their checksums and ETags to come."""

    key: str
    source: Source
    size: int
    number: str = ""
    parts: list[tuple[int, Future[tuple[int, str]]]] = field(default_factory=list)


class Transfer:
    """Transfers to and from one bucket."""

    def __init__(self, client: Any, bucket: str, options: S3Options) -> None:
        self._client, self._bucket, self._at_rest = client, bucket, options.at_rest
        self._connections, self._patience, self._longest = options.connections, options.patience, options.timeout

    def get(self, files: Mapping[str, Path]) -> None:
        """Fetch objects, by key, into files that get their names when all are whole and compared."""
        fetches = [_Fetch(key, path, path.with_name(f"{PARTIAL}{uuid4().hex}")) for key, path in files.items()]
        try:
            with Workers(self._connections, self._patience) as workers:
                workers.all(self._prepare, fetches)
                size = part_size((fetch.size for fetch in fetches), self._connections)
                for fetch in fetches:
                    self._fetch(workers, fetch, size)
                workers.join()
                for fetch in fetches:
                    workers.retries(self._compare, workers, fetch, size)
            for fetch in fetches:
                fetch.partial.replace(fetch.path)
        finally:
            for fetch in fetches:
                fetch.partial.unlink(missing_ok=True)

    def put(self, sources: Mapping[str, Source]) -> None:
        """Send files, or pieces in memory, to objects by key; uploads that were begun are given up if one fails."""
        uploads = [_Upload(key, source, size_of(source)) for key, source in sources.items()]
        size = part_size((upload.size for upload in uploads), self._connections)
        large = [upload for upload in uploads if upload.size > size]
        try:
            with Workers(self._connections, self._patience) as workers:
                workers.all(self._begin, large)
                for upload in large:
                    upload.parts = [
                        (length, workers.start(self._send_part, upload, number, Stretch(upload.source, start, length)))
                        for number, (start, length) in enumerate(_stretches(upload.size, size), start=1)
                    ]
                for upload in uploads:
                    if upload.size <= size:
                        workers.start(self._send_whole, upload)
                workers.join()
                workers.all(self._complete, large)
        except BaseException:
            for upload in large:
                if upload.number:
                    with suppress(Exception):  # the failure that led here says more; `sweep` removes what is left
                        self._ask("abort_multipart_upload", upload.key, UploadId=upload.number)
            raise

    # Fetching

    def _prepare(self, fetch: _Fetch) -> None:
        """Ask what the object is, and take all the room for it, so that a full disk is known before it is fetched."""
        head = self._head(fetch.key)
        fetch.size, fetch.etag = head["ContentLength"], head["ETag"]
        fetch.kind, fetch.checksum = kept(head)
        _preallocate(fetch.partial, fetch.size)

    def _head(self, key: str) -> Any:
        from botocore.exceptions import ClientError

        try:
            return self._ask("head_object", key, ChecksumMode="ENABLED")
        except ClientError as error:
            if may_pass(error):
                raise
            # An answer to HEAD has no body, which would tell what is missing, or what is wrong with the request.
            self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)
            if absent(error):
                raise DataError(f"s3://{self._bucket}/{key}: nothing there; check bucket and key") from error
            self._ask("get_object", key)["Body"].close()
            raise Damaged(f"{key}: may be fetched and not be asked after: {error}") from error

    def _fetch(self, workers: Workers, fetch: _Fetch, size: int) -> None:
        fetch.parts = [
            (length, workers.start(self._get_part, workers, fetch, start, length))
            for start, length in _stretches(fetch.size, size)
        ]

    def _get_part(self, workers: Workers, fetch: _Fetch, start: int, length: int) -> int:
        """The checksum of a stretch of the object, put into the same stretch of the file."""
        at, value = start, 0
        with fetch.partial.open("rb+", buffering=0) as file:
            while at < start + length:
                at, value = workers.retries(self._get_some, workers, fetch, file.fileno(), at, start + length, value)
        return value

    def _get_some(self, workers: Workers, fetch: _Fetch, file: int, at: int, end: int, value: int) -> tuple[int, int]:
        """As much as one answer gives: how far it came, and the checksum up to there.

        A slow one is left for another one, which goes on there; one that only drips has failed.
        """
        began, block = at, buffer()
        answer = self._ask("get_object", fetch.key, Range=f"bytes={at}-{end - 1}", IfMatch=fetch.etag)
        raw, until = answer["Body"]._raw_stream, time.monotonic() + self._longest
        try:
            while at < end and not workers.retries.stopped and time.monotonic() < until:
                got = _read(raw, block[: end - at], until)
                _write(fetch.partial, file, block[:got], at)
                value, at = checksum(block[:got], value, fetch.kind), at + got
            if at < end and not workers.retries.stopped and at - began < SLOWEST * self._longest:
                raise TimeoutError(f"{fetch.key}: {at - began} bytes came in {self._longest:g} s")
        except Damaged:
            raw.close()
            if at == began:
                raise
        except BaseException:
            raw.close()
            raise
        raw.release_conn() if at == end else raw.close()
        return at, value

    def _compare(self, workers: Workers, fetch: _Fetch, size: int) -> None:
        whole = encoded(combined(((part.result(), length) for length, part in fetch.parts), fetch.kind), fetch.kind)
        if fetch.checksum and whole != fetch.checksum:
            self._fetch(workers, fetch, size)
            raise Damaged(f"{fetch.key}: its checksum is {whole}, not {fetch.checksum} as the store says")

    # Sending

    def _send_whole(self, upload: _Upload) -> None:
        body = Stretch(upload.source, 0, upload.size)
        sent = encoded(body.checksum())
        answer = self._ask("put_object", upload.key, Body=body, **self._sum(sent), **self._at_rest)
        _same(upload.key, sent, answer)

    def _begin(self, upload: _Upload) -> None:
        keep = {"ChecksumAlgorithm": OURS, "ChecksumType": "FULL_OBJECT"} if self._checked else {}
        upload.number = self._ask("create_multipart_upload", upload.key, **keep, **self._at_rest)["UploadId"]

    def _send_part(self, upload: _Upload, number: int, body: Stretch) -> tuple[int, str]:
        value = body.checksum()
        body.seek(0)
        answer = self._ask(
            "upload_part",
            upload.key,
            UploadId=upload.number,
            PartNumber=number,
            Body=body,
            **self._sum(encoded(value)),
        )
        _same(upload.key, encoded(value), answer)
        return value, answer["ETag"]

    def _complete(self, upload: _Upload) -> None:
        sent = [(length, *part.result()) for length, part in upload.parts]
        whole = encoded(combined((value, length) for length, value, _ in sent))
        parts = [
            {"PartNumber": number, "ETag": etag, **self._sum(encoded(value))}
            for number, (_, value, etag) in enumerate(sent, start=1)
        ]
        keep = {"ChecksumType": "FULL_OBJECT", **self._sum(whole)} if self._checked else {}
        try:
            answer = self._ask(
                "complete_multipart_upload",
                upload.key,
                UploadId=upload.number,
                MultipartUpload={"Parts": parts},
                **keep,
            )
        except self._client.exceptions.NoSuchUpload:  # an earlier try succeeded, and its answer was lost
            answer = self._head(upload.key)
            if answer["ContentLength"] != upload.size:
                raise
        _same(upload.key, whole, answer)

    @property
    def _checked(self) -> bool:
        """False where people say so (AWS_REQUEST_CHECKSUM_CALCULATION=when_required), for a store that refuses them."""
        return self._client.meta.config.request_checksum_calculation != "when_required"

    def _sum(self, value: str) -> dict[str, str]:
        return {FIELD: value} if self._checked else {}

    def _ask(self, operation: str, key: str, **arguments: Any) -> Any:
        return getattr(self._client, operation)(Bucket=self._bucket, Key=key, **arguments)


def part_size(sizes: Iterable[int], connections: int) -> int:
    """Bytes of a part: two for each connection, since what a request costs both ends is what is left to save."""
    even = sum(sizes) // (2 * connections)
    return min(max(-(-even // MIB) * MIB, SMALLEST), LARGEST)


def _stretches(whole: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, length) of the parts of an object."""
    size = max(size, -(-whole // MOST))
    return ((start, min(size, whole - start)) for start in range(0, whole, size))


def _preallocate(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, _named(path):
        if size:
            os.posix_fallocate(file.fileno(), 0, size)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """The system's errors about a file that is open do not say which."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _read(raw: Any, block: memoryview, until: float) -> int:
    """Fill `block` from an answer's body, or as far as it comes by then.

    By http.client's own `readinto`, since urllib3's makes a copy first. Alone it would wait for all of the block.
    """
    body, got = raw._fp, 0
    if body.fp is None:  # it ended within the last block
        raise Damaged("the answer ended early")
    if not body.chunked:
        body.fp.readinto = body.fp.readinto1
    try:
        while got < len(block) and (some := body.readinto(block[got:])):
            got += some
            if time.monotonic() > until:
                break
    except (OSError, HTTPException) as error:
        raise Damaged(f"the answer broke off: {error}") from error
    if not got:
        raise Damaged("the answer ended early")
    return got


def _write(path: Path, file: int, block: memoryview, at: int) -> None:
    with _named(path):
        while block:
            done = os.pwrite(file, block, at)
            block, at = block[done:], at + done


def _same(key: str, sent: str, answer: Mapping[str, Any]) -> None:
    """Whether the store got what was sent, if it says what it got."""
    got = answer.get(FIELD, sent)
    if got != sent and "-" not in got:
        raise Damaged(f"{key}: the store got checksum {got}, {sent} was sent")
