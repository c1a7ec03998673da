"""Fetching from and publishing to URIs.

Credentials, region and endpoint come by boto3's standard chain (environment, profile, IRSA; `AWS_ENDPOINT_URL` for
MinIO, Ceph and others) and appear in no message.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from posttrain.artifacts.artifact import whole_or_nothing
from posttrain.artifacts.digests import RECORD_FILE
from posttrain.errors import ConfigError, DataError, StorageError

_SCHEMES = ("file", "s3")

# The keys of a secret with S3 credentials, each the environment variable of the same name; any may be absent.
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")


def fetch(uri: str, scratch: Path) -> Path:
    """A local path with what lies at `uri`: a file or a directory.

    Args:
        uri: a path, `file://…` or `s3://bucket/key-or-prefix`.
        scratch: a directory for downloads; local URIs are used where they are.

    Raises:
        DataError: nothing is there.
        StorageError: the store failed or refused.
    """
    scheme, place = _split(uri)
    if scheme == "s3":
        return _download(uri, place, scratch)
    path = Path(place)
    if not path.exists():
        raise DataError(f"{uri}: no such file or directory; check the path, also inside the container")
    return path


def publish(directory: Path, uri: str) -> None:
    """Put an artifact at `uri`; its record goes last, so what has a record is whole.

    Raises:
        StorageError: the store failed or refused.
        ContractError: something else is there already (local).
    """
    scheme, place = _split(uri)
    if scheme == "file":
        with whole_or_nothing(Path(place)) as scratch:
            shutil.copytree(directory, scratch, dirs_exist_ok=True)
        return
    bucket, prefix = _bucket_and_key(uri, place)
    files = sorted((p for p in directory.rglob("*") if p.is_file()), key=lambda path: path.name == RECORD_FILE)
    with _s3_errors(uri):
        client = _client()
        for file in files:
            client.upload_file(str(file), bucket, str(PurePosixPath(prefix, file.relative_to(directory).as_posix())))


def read_text(uri: str) -> str | None:
    """A small text object, or None where there is none."""
    scheme, place = _split(uri)
    if scheme == "file":
        path = Path(place)
        return path.read_text(encoding="utf-8") if path.is_file() else None
    bucket, key = _bucket_and_key(uri, place)
    with _s3_errors(uri):
        client = _client()
        try:
            body: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except client.exceptions.NoSuchKey:
            return None
    return body.decode()


def write_text(uri: str, text: str) -> None:
    """Replace a small text object in one step."""
    scheme, place = _split(uri)
    if scheme == "s3":
        bucket, key = _bucket_and_key(uri, place)
        with _s3_errors(uri):
            _client().put_object(Bucket=bucket, Key=key, Body=text.encode())
        return
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _split(uri: str) -> tuple[str, str]:
    """("file", path) or ("s3", bucket/key)."""
    if "://" not in uri:
        return "file", uri
    parts = urlsplit(uri)
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"{uri}: unknown scheme {parts.scheme!r}; use a path, file:// or s3://")
    # A key may hold '?' and '#', which mean something in a URL only.
    place = unquote(parts.path) if parts.scheme == "file" else uri.partition("://")[2]
    return parts.scheme, place


def _bucket_and_key(uri: str, place: str) -> tuple[str, str]:
    bucket, _, key = place.partition("/")
    if not bucket or not key.strip("/"):
        raise ConfigError(f"{uri}: give a bucket and a key, s3://bucket/key")
    return bucket, key.strip("/")


def _client() -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 5}))


class _s3_errors:
    """Turns boto3's errors into ours, naming the URI only."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        if isinstance(error, BotoCoreError | ClientError | Boto3Error):
            reason = str(error).splitlines()[0]
            raise StorageError(
                f"{self._uri}: {reason}; check credentials, endpoint (AWS_ENDPOINT_URL) and bucket"
            ) from error


def _download(uri: str, place: str, scratch: Path) -> Path:
    bucket, key = _bucket_and_key(uri, place)
    target = scratch / PurePosixPath(key).name
    with _s3_errors(uri):
        client = _client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        found = [item["Key"] for page in pages for item in page.get("Contents", [])]
        # A prefix also matches its longer namesakes (s3://b/base matches base-2/...): keep the object or its children.
        # Consoles mark empty folders by objects whose key ends in a slash; those are not data.
        wanted = [name for name in found if name == key or (name.startswith(key + "/") and not name.endswith("/"))]
        for name in wanted:
            relative = PurePosixPath(name).relative_to(key)
            if ".." in relative.parts:
                raise DataError(f"s3://{bucket}/{name}: a key with '..' is not fetched; rename the object")
            local = target / relative if name != key else target
            local.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, name, str(local))
    if not wanted:
        raise DataError(f"{uri}: nothing there; check bucket and key")
    return target
