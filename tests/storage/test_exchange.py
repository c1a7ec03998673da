"""Fetching and publishing on a disk and on a real S3 server."""

import os

import boto3
import pytest

from posttrain.artifacts.digests import RECORD_FILE
from posttrain.errors import USER_ERROR, ConfigError, ContractError, DataError, StorageError
from posttrain.storage import exchange, fetch, publish, read_text, write_text
from posttrain.storage.s3 import S3Store
from tests.s3 import BUCKET, SECRET, s3, s3_server

__all__ = ["s3", "s3_server"]
pytestmark = pytest.mark.xdist_group("s3")

FILES = {"config.json": b"{}", "deep/model.safetensors": b"\x00" * 5000, RECORD_FILE: b"record", "z.txt": b"z"}


@pytest.fixture
def artifact(tmp_path):
    return write(tmp_path / "artifact", FILES)


def write(directory, files):
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def contents(directory):
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_local_uri_is_used_where_it_is(tmp_path, artifact, scheme):
    assert fetch(f"{scheme}{artifact}", tmp_path / "scratch") == artifact
    assert fetch(f"{scheme}{artifact}/config.json", tmp_path / "scratch") == artifact / "config.json"


def test_a_file_uri_may_be_quoted(tmp_path):
    write(tmp_path / "my model", FILES)
    assert fetch(f"file://{tmp_path}/my%20model", tmp_path) == tmp_path / "my model"


@pytest.mark.parametrize("uri", ["{}/missing", "file://{}/missing"])
def test_a_missing_path_is_named(tmp_path, uri):
    uri = uri.format(tmp_path)
    with pytest.raises(DataError, match="missing: no such file or directory; check the path"):
        fetch(uri, tmp_path)


@pytest.mark.parametrize("uri", ["http://x/y", "gs://bucket/key", "hf://model"])
def test_an_unknown_scheme_is_refused(tmp_path, uri):
    with pytest.raises(ConfigError, match=r"unknown scheme '\w+'; use a path, file:// or s3://"):
        fetch(uri, tmp_path)


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "s3:///key"])
def test_a_bucket_alone_is_not_a_place(tmp_path, uri):
    with pytest.raises(ConfigError, match="give a bucket and a key"):
        fetch(uri, tmp_path)


@pytest.mark.parametrize("uri", ["s3:", "s3:/bucket/key", "file:/key"])
def test_a_scheme_without_its_slashes_is_no_path(tmp_path, uri):
    with pytest.raises(ConfigError, match=rf"^{uri}: write (s3://bucket/key|file:///path)$"):
        fetch(uri, tmp_path)


def test_publishing_to_a_path_is_whole_and_never_over_something(tmp_path, artifact):
    publish(artifact, f"file://{tmp_path}/to/here")
    assert contents(tmp_path / "to" / "here") == FILES
    with pytest.raises(ContractError, match="exists already"):
        publish(artifact, str(tmp_path / "to" / "here"))


def test_publishing_that_fails_leaves_nothing(tmp_path, artifact, monkeypatch):
    def fails(*args, **kwargs):
        raise OSError("gone")

    monkeypatch.setattr(exchange.shutil, "copytree", fails)
    with pytest.raises(OSError, match="gone"):
        publish(artifact, str(tmp_path / "to" / "here"))
    assert list((tmp_path / "to").iterdir()) == []


def replaces_text(uri):
    assert read_text(uri) is None
    for text in ("one", "twö"):
        write_text(uri, text)
        assert read_text(uri) == text


def test_text_is_replaced_in_one_step(tmp_path):
    replaces_text(f"file://{tmp_path}/deep/index.json")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["index.json"]


def test_what_is_published_to_s3_is_fetched_from_it(s3, tmp_path, artifact):
    publish(artifact, f"s3://{BUCKET}/models/base")
    fetched = fetch(f"s3://{BUCKET}/models/base", tmp_path / "scratch")
    assert fetched == tmp_path / "scratch" / "base"
    assert contents(fetched) == FILES
    assert contents(fetch(f"s3://{BUCKET}/models/base/", tmp_path / "slash")) == FILES


def test_the_record_is_published_last(s3, artifact, monkeypatch):
    sent = []

    put = S3Store.put
    monkeypatch.setattr(S3Store, "put", lambda self, sources: (sent.extend(sources), put(self, sources)))
    publish(artifact, f"s3://{BUCKET}/base")
    assert sorted(sent) == sorted(FILES)
    assert sorted(s3.stored()) == sorted(f"base/{name}" for name in FILES)
    assert sent[-1] == RECORD_FILE


def test_a_single_object(s3, tmp_path):
    s3.put("data/rows.jsonl", b"{}")
    file = fetch(f"s3://{BUCKET}/data/rows.jsonl", tmp_path)
    assert (file.name, file.read_bytes()) == ("rows.jsonl", b"{}")


def test_a_prefix_does_not_take_its_namesakes_along(s3, tmp_path):
    for key in ("base/config.json", "base-2/config.json", "based", "other"):
        s3.put(key, key.encode())
    assert contents(fetch(f"s3://{BUCKET}/base", tmp_path)) == {"config.json": b"base/config.json"}


def test_many_objects_take_many_pages(s3, tmp_path, monkeypatch):
    names = {f"{number:02}.txt": b"x" for number in range(12)}
    for name in names:
        s3.put(f"many/{name}", b"x")
    client = s3.client
    original = client.get_paginator
    monkeypatch.setattr(client, "get_paginator", lambda name: Paged(original(name)))
    monkeypatch.setattr(S3Store, "_client", client)
    assert contents(fetch(f"s3://{BUCKET}/many", tmp_path)) == names


class Paged:
    def __init__(self, paginator):
        self._paginator = paginator

    def paginate(self, **arguments):
        return self._paginator.paginate(**arguments, PaginationConfig={"PageSize": 5})


@pytest.mark.parametrize("key", ["what?/x#1.jsonl", "späce d/x.jsonl", "100%/x.jsonl"])
def test_keys_are_taken_literally(s3, tmp_path, key):
    s3.put(key)
    assert fetch(f"s3://{BUCKET}/{key}", tmp_path).read_bytes() == b"body"


@pytest.mark.parametrize("key", ["missing", "base/missing", "bas"])
def test_a_missing_object_is_named(s3, tmp_path, key):
    s3.put("base/config.json")
    with pytest.raises(DataError, match=f"s3://{BUCKET}/{key}: nothing there; check bucket and key"):
        fetch(f"s3://{BUCKET}/{key}", tmp_path)


def test_an_empty_folders_mark_is_no_data(s3, tmp_path):
    s3.put("empty/", b"")
    with pytest.raises(DataError, match="nothing there"):
        fetch(f"s3://{BUCKET}/empty", tmp_path)


def test_text_in_s3(s3):
    replaces_text(f"s3://{BUCKET}/registry/index.json")


USES = {
    "fetch": lambda uri, path: fetch(uri, path),
    "publish": lambda uri, path: publish(write(path / "a", FILES), uri),
    "read": lambda uri, path: read_text(uri),
    "write": lambda uri, path: write_text(uri, "text"),
}


REMEDIES = {
    "secret": "the secret does not fit the access key; check AWS_SECRET_ACCESS_KEY",
    "key": "the access key is unknown there; check AWS_ACCESS_KEY_ID",
    "bucket": "there is no bucket 'no-such-bucket'; create it, or check its name and AWS_ENDPOINT_URL",
    "none": "check credentials, endpoint (AWS_ENDPOINT_URL) and bucket",
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("wrong", REMEDIES)
def test_a_refusal_is_the_users_mistake_and_shows_no_secret(s3, tmp_path, monkeypatch, use, wrong):
    if wrong in ("secret", "key") and not s3.checks_credentials:
        pytest.skip("moto lets any secret in; install go or versitygw")
    bucket = BUCKET
    if wrong == "secret":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-value")
    elif wrong == "key":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong-key-value")
    elif wrong == "bucket":
        bucket = "no-such-bucket"
    else:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials of its first use
    uri = f"s3://{bucket}/base"
    with pytest.raises(StorageError) as raised:
        USES[use](uri, tmp_path)
    line = str(raised.value)
    assert raised.value.exit_code == USER_ERROR == 2
    assert line.startswith(f"{uri}: ")
    assert REMEDIES[wrong] in line
    assert "\n" not in line
    for secret in (SECRET, "wrong-secret-value", "wrong-key-value"):
        assert secret not in line
    assert not (tmp_path / "base").exists()
