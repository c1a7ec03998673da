"""What a URI of ours means: a path, `file://…` or `s3://bucket/key`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from posttrain.errors import ConfigError

_SCHEMES = ("file", "s3")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_.-]+")

# The keys of a secret with S3 credentials, each the environment variable of the same name; any may be absent.
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")


@dataclass(frozen=True)
class Place:
    """Where a URI points: a path of the disk, or a key (or prefix) of a bucket."""

    uri: str
    scheme: str
    path: str
    bucket: str = ""


def parse(uri: str) -> Place:
    """Take a URI apart.

    Raises:
        ConfigError: the scheme is unknown, or bucket or key are missing.
    """
    if (scheme := uri.partition(":")[0]) in _SCHEMES and not uri.startswith(f"{scheme}://"):
        raise ConfigError(f"{uri}: write {scheme}://{'bucket/key' if scheme == 's3' else '/path'}")
    if "://" not in uri:
        return Place(uri, "file", uri)
    parts = urlsplit(uri)
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"{uri}: unknown scheme {parts.scheme!r}; use a path, file:// or s3://")
    if parts.scheme == "file":
        return Place(uri, "file", unquote(parts.path))
    # A key may hold '?' and '#', which mean something in a URL only.
    bucket, _, key = uri.partition("://")[2].partition("/")
    if "@" in bucket:
        raise ConfigError(
            "s3://…@…: credentials do not belong in a URI, which is recorded; set AWS_ACCESS_KEY_ID and so on"
        )
    if not bucket or not key.strip("/"):
        raise ConfigError(f"{uri}: give a bucket and a key, s3://bucket/key")
    if {".", ".."} & set(key.split("/")):
        raise ConfigError(f"{uri}: '.' and '..' mean nothing in a key; write it out")
    return Place(uri, "s3", key.strip("/"), bucket)


def segment(name: str) -> str:
    """A name as one part of a path or key: what is no letter, digit, dot, - or _ becomes -, and no dot is in front."""
    return _NOT_PLAIN.sub("-", name).lstrip(".") or "-"
