"""A store in S3: AWS, MinIO, SeaweedFS, Ceph or any other by its endpoint.

Credentials, region and endpoint come by boto3's standard chain (environment, profile, IRSA; `AWS_ENDPOINT_URL` for
the others) and appear in no message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from posttrain.errors import DataError, StorageError
from posttrain.storage.store import Entry, Source, checked_name
from posttrain.storage.uris import Place


class S3Store:
    """Objects below a prefix of a bucket."""

    def __init__(self, place: Place) -> None:
        self.uri, self._bucket = place.uri, place.bucket
        self._prefix = f"{place.path}/" if place.path else ""

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 5}))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See `Store`."""
        with self._errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", []):
                    name = item["Key"].removeprefix(self._prefix)
                    # Consoles mark empty folders by objects whose key ends in a slash; those are not data.
                    if name and not name.endswith("/"):
                        yield Entry(checked_name(name, self.uri), item["Size"], item["LastModified"].timestamp())

    def read(self, name: str) -> bytes | None:
        """See `Store`."""
        with self._errors():
            try:
                body: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read()
            except self._client.exceptions.NoSuchKey:
                return None
        return body

    def write(self, name: str, content: bytes) -> None:
        """See `Store`."""
        with self._errors():
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content)

    def create(self, name: str, content: bytes) -> bool:
        """See `Store`."""
        from botocore.exceptions import ClientError

        with self._errors():
            try:
                self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content, IfNoneMatch="*")
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("PreconditionFailed", "ConditionalRequestConflict"):
                    raise
                return False
        return True

    def get(self, files: Mapping[str, Path]) -> None:
        """See `Store`."""
        for name, path in files.items():
            with self._errors():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._client.download_file(self._bucket, self._prefix + name, str(path))

    def put(self, sources: Mapping[str, Source]) -> None:
        """See `Store`."""
        with self._errors():
            for name, source in sources.items():
                if isinstance(source, Path):
                    self._client.upload_file(str(source), self._bucket, self._prefix + name)
                else:
                    self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=b"".join(source))

    def delete(self, names: Iterable[str]) -> None:
        """See `Store`."""
        with self._errors():
            for name in names:
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    def sweep(self, older: float) -> int:
        """See `Store`."""
        return 0

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns boto3's errors into ours, naming the URI only."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                raise DataError(f"{self.uri}: nothing there; check bucket and key") from error
            reason = str(error).splitlines()[0]
            raise StorageError(
                f"{self.uri}: {reason}; check credentials, endpoint (AWS_ENDPOINT_URL) and bucket"
            ) from error
