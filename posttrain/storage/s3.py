"""A store in S3: AWS, MinIO, SeaweedFS, Ceph or any other by its endpoint."""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from posttrain.artifacts.record import FileEntry
from posttrain.storage.failures import explained
from posttrain.storage.options import S3Options, client
from posttrain.storage.retries import GaveUp, Result, Retries, may_pass
from posttrain.storage.store import Entry, Source, Store, checked_name
from posttrain.storage.transfer import Transfer
from posttrain.storage.uris import Place
from posttrain.storage.workers import Workers

_BATCH = 1000  # names that one request may delete
_COPIED = 5 * 2**30  # bytes that one request may copy

# What a page of a list calls the place where it ends, and what the request for the next one calls it.
_FOLLOWING = {
    "NextContinuationToken": "ContinuationToken",
    "NextKeyMarker": "KeyMarker",
    "NextUploadIdMarker": "UploadIdMarker",
}


class S3Store:
    """Objects below a prefix of a bucket."""

    def __init__(self, place: Place, options: S3Options) -> None:
        self.uri, self._place, self._options = place.uri, place, options
        self._prefix = f"{place.path}/" if place.path else ""

    @cached_property
    def _client(self) -> Any:
        return client(self._options)

    @cached_property
    def _transfer(self) -> Transfer:
        return Transfer(self._client, self._place.bucket, self._options)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See `Store`."""
        with explained(self._place):
            for page in self._pages("list_objects_v2", Prefix=self._prefix + prefix):
                for item in page.get("Contents", []):
                    name = item["Key"].removeprefix(self._prefix)
                    # Consoles mark empty folders by objects whose key ends in a slash; those are not data.
                    if name and not name.endswith("/"):
                        checked_name(name, self.uri)
                        yield Entry(name, item["Size"], item["LastModified"].timestamp(), item["ETag"])

    def read(self, name: str) -> bytes | None:
        """See `Store`."""
        with explained(self._place):
            try:
                return self._retried(self._read, self._prefix + name)
            except self._client.exceptions.NoSuchKey:
                return None

    def write(self, name: str, content: bytes) -> None:
        """See `Store`."""
        self.put({name: [memoryview(content)]})

    def create(self, name: str, content: bytes) -> bool:
        """See `Store`."""
        with explained(self._place):
            return self._put_if(name, content, IfNoneMatch="*")

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """See `Store`."""
        if old is None:
            return self.create(name, new)
        with explained(self._place):
            try:
                there, etag = self._retried(self._read_tagged, self._prefix + name)
            except self._client.exceptions.NoSuchKey:
                return False
            return there == old and self._put_if(name, new, IfMatch=etag)

    def _put_if(self, name: str, content: bytes, **condition: str) -> bool:
        from botocore.exceptions import ClientError

        tries = 0

        def put() -> None:
            nonlocal tries
            tries += 1
            self._ask("put_object", Key=self._prefix + name, Body=content, **condition, **self._options.at_rest)

        try:
            self._retried(put)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("PreconditionFailed", "NoSuchKey"):  # the latter: removed since
                raise
            # If an earlier try did it, though its answer was lost, what is there is ours.
            return tries > 1 and self.read(name) == content
        return True

    def get(self, files: Mapping[str, Path]) -> None:
        """See `Store`."""
        with explained(self._place):
            self._transfer.get({self._prefix + name: path for name, path in files.items()})

    def put(self, sources: Mapping[str, Source]) -> None:
        """See `Store`."""
        with explained(self._place):
            self._transfer.put({self._prefix + name: source for name, source in sources.items()})

    def copy(self, source: Store, files: Mapping[str, FileEntry]) -> bool:
        """See `Store`. The service is asked for the SHA-256 of what it wrote; of one copied in parts it has none."""
        from botocore.exceptions import BotoCoreError, ClientError

        if not isinstance(source, S3Store) or source._options != self._options:
            return False
        if any(file.size > _COPIED for file in files.values()):
            return False
        try:
            with Workers(self._options.connections, self._options.patience) as workers:
                digests = workers.all(partial(self._copied, source), files)
        except (BotoCoreError, ClientError, GaveUp):  # who then fetches and sends is told what is wrong
            digests = []
        if digests == [file.sha256 for file in files.values()]:
            return True
        self.delete(files)
        return False

    def _copied(self, source: S3Store, name: str) -> str:
        there = {"Bucket": source._place.bucket, "Key": source._prefix + name}
        how = {"CopySource": there, "ChecksumAlgorithm": "SHA256", **self._options.at_rest}
        answer = self._ask("copy_object", Key=self._prefix + name, **how)
        return b64decode(answer["CopyObjectResult"].get("ChecksumSHA256", "")).hex()

    def delete(self, names: Iterable[str]) -> None:
        """See `Store`."""
        keys = [self._prefix + name for name in names]
        with explained(self._place):
            for start in range(0, len(keys), _BATCH):
                for key in self._kept(keys[start : start + _BATCH]):
                    self._retried(self._ask, "delete_object", Key=key)

    def sweep(self, older: float) -> int:
        """See `Store`."""
        swept, before = 0, time.time() - older
        with explained(self._place):
            for page in self._pages("list_multipart_uploads", Prefix=self._prefix):
                for upload in page.get("Uploads", []):
                    if upload["Initiated"].timestamp() < before:
                        swept += self._abort(upload["Key"], upload["UploadId"])
        return swept

    def _abort(self, key: str, upload: str) -> bool:
        try:
            self._retried(self._ask, "abort_multipart_upload", Key=key, UploadId=upload)
        except self._client.exceptions.NoSuchUpload:  # completed or aborted since
            return False
        return True

    def _kept(self, keys: Sequence[str]) -> Sequence[str]:
        """The keys that are still there after one request to delete them all, which not every store knows."""
        from botocore.exceptions import ClientError

        objects = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        try:
            answer = self._retried(self._ask, "delete_objects", Delete=objects)
        except ClientError as error:
            if may_pass(error):
                raise
            return keys
        return [item["Key"] for item in answer.get("Errors", [])]

    def _read(self, key: str) -> bytes:
        return self._read_tagged(key)[0]

    def _read_tagged(self, key: str) -> tuple[bytes, str]:
        answer = self._ask("get_object", Key=key, ChecksumMode="ENABLED")
        return answer["Body"].read(), answer["ETag"]

    def _pages(self, operation: str, **arguments: Any) -> Iterator[Any]:
        while True:
            page = self._retried(self._ask, operation, **arguments)
            yield page
            if not page.get("IsTruncated"):
                return
            arguments |= {asked: page[told] for told, asked in _FOLLOWING.items() if page.get(told)}

    def _retried(self, work: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        return Retries(self._options.patience)(work, *args, **kwargs)

    def _ask(self, operation: str, **arguments: Any) -> Any:
        return getattr(self._client, operation)(Bucket=self._place.bucket, **arguments)
