"""How a store is reached: variables, parameters, TLS, a proxy; and that no secret is ever shown."""

import logging
import os
import subprocess
from contextlib import suppress

import pytest

from posttrain.errors import ConfigError, StorageError
from posttrain.storage.options import S3Options, _read_list, client, options_from
from posttrain.storage.store import open_store
from posttrain.storage.transfer import Transfer
from posttrain.storage.uris import parse
from tests.s3 import BUCKET, SECRET, s3, s3_server, versitygw

__all__ = ["s3", "s3_server"]
pytestmark = pytest.mark.xdist_group("s3")
URI = f"s3://{BUCKET}/options"


def test_variables_give_options():
    environment = {
        "AWS_REGION": "eu-west-1",
        "POSTTRAIN_S3_PATH_STYLE": "false",
        "POSTTRAIN_S3_ENCRYPTION": "aws:kms",
        "POSTTRAIN_S3_KMS_KEY": "key",
        "POSTTRAIN_S3_CONNECTIONS": "7",
        "POSTTRAIN_S3_PROXY": "",
    }
    given = S3Options(region="eu-west-1", path_style=False, encryption="aws:kms", kms_key="key", connections=7)
    assert options_from(environment) == given
    assert options_from({**environment, "POSTTRAIN_S3_REGION": "us-west-2"}).region == "us-west-2"
    assert given.at_rest == {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key"}
    assert options_from({}) == S3Options() and not S3Options().at_rest


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"POSTTRAIN_S3_CONECTIONS": "7"}, "unknown variable POSTTRAIN_S3_CONECTIONS; did you mean 'connections'"),
        ({"POSTTRAIN_S3_CONNECTIONS": "many"}, "POSTTRAIN_S3_CONNECTIONS: Input should be a valid integer"),
        ({"POSTTRAIN_S3_ENCRYPTION": "none"}, "POSTTRAIN_S3_ENCRYPTION: Input should be '', 'AES256' or 'aws:kms'"),
        ({"POSTTRAIN_S3_KMS_KEY": "key"}, "kms_key needs encryption aws:kms"),
        ({"POSTTRAIN_S3_ENDPOINT": "http://me:hidden@host"}, "credentials do not belong in the endpoint"),
    ],
)
def test_a_wrong_variable_is_named_without_its_value(variables, message):
    with pytest.raises(ConfigError) as raised:
        options_from(variables)
    assert message in str(raised.value)
    assert "hidden" not in str(raised.value)


def test_an_endpoint_of_the_environment_holds_no_credentials_either(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hidden@host")
    with pytest.raises(ConfigError, match="credentials do not belong in the endpoint") as raised:
        open_store(URI, S3Options(region="us-east-1")).read("a")
    assert "hidden" not in str(raised.value)


def test_a_uri_with_credentials_is_refused_and_not_shown():
    with pytest.raises(ConfigError, match="credentials do not belong in a URI") as raised:
        parse("s3://key:hidden@bucket/prefix")
    assert "hidden" not in str(raised.value)


def test_the_endpoint_is_told_by_parameter(s3, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    store = open_store(URI, S3Options(endpoint=s3.url, region="us-east-1"))
    store.write("a", b"one")
    assert store.read("a") == b"one"


def test_style_and_region_reach_the_client(s3):
    made = client(S3Options(region="eu-west-1", path_style=True, connections=3))
    assert made.meta.config.s3["addressing_style"] == "path"
    assert (made.meta.region_name, made.meta.config.max_pool_connections) == ("eu-west-1", 3)
    assert made is client(S3Options(region="eu-west-1", path_style=True, connections=3))


def test_lists_are_read_as_botocore_reads_them(s3):
    for name in ("a b", "a&<b>", "\u00fc/%41+", "z"):
        s3.put(f"lists/{name}", name.encode())
    pages = [each.list_objects_v2(Bucket=BUCKET, Prefix="lists/") for each in (client(S3Options()), s3.client)]
    ours, theirs = (
        [(each["Key"], each["Size"], each["LastModified"], each["ETag"]) for each in page["Contents"]] for page in pages
    )
    assert ours == theirs and len(ours) == 4
    assert pages[0]["KeyCount"] == 4
    assert "Contents" not in client(S3Options()).list_objects_v2(Bucket=BUCKET, Prefix="nothing")


@pytest.mark.parametrize("size", ["many", "", "5</Size><LastModified>lately</LastModified><Size>5", "5<"])
def test_a_list_that_is_not_as_expected_is_left_to_botocore(size):
    answer, read = {"body": f"<ListBucketResult><Contents><Size>{size}</Size></Contents></ListBucketResult>"}, {}
    before = dict(answer)
    _read_list(answer, read)
    assert answer == before and read == {}


def test_every_object_is_encrypted_as_told(s3, monkeypatch):
    asked = []

    def ask(self, operation, *_, **arguments):
        asked.append((operation, arguments.get("ServerSideEncryption"), arguments.get("SSEKMSKeyId")))
        return {"UploadId": "1", "ETag": "1"}

    store = open_store(URI, S3Options(region="us-east-1", encryption="aws:kms", kms_key="key"))
    monkeypatch.setattr(Transfer, "_ask", ask)
    monkeypatch.setattr(type(store), "_ask", ask)
    store.put({"small": [memoryview(b"")], "large": [memoryview(bytes(9 * 2**20))]})
    store.create("made", b"")
    making = [item for item in asked if item[0] in ("put_object", "create_multipart_upload")]
    assert making and len(making) == 3
    assert {item[1:] for item in making} == {("aws:kms", "key")}


def test_a_proxy_is_used_and_its_password_hidden(s3, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    # The server takes requests meant for others, as a proxy does.
    through = S3Options(endpoint="http://no-such-host.example", proxy=s3.url, region="us-east-1", patience=0)
    open_store(URI, through).write("a", b"one")
    assert s3.stored("options") == ["options/a"]
    broken = through.model_copy(update={"proxy": "http://me:hidden@127.0.0.1:1"})
    with pytest.raises(StorageError) as raised:
        open_store(URI, broken).read("a")
    assert "hidden" not in str(raised.value) and "\n" not in str(raised.value)


def test_an_own_authority_is_trusted_by_its_bundle(tmp_path, s3, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(made, check=True, capture_output=True)
    except OSError:
        pytest.skip("openssl makes the certificate")
    running = versitygw(tmp_path, "--cert", str(certificate), "--key", str(key), scheme="https")
    if not running:
        pytest.skip("needs versitygw, or go to build it")
    with running as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        options = S3Options(region="us-east-1", ca_bundle=str(certificate), patience=0)
        client(options).create_bucket(Bucket=BUCKET)
        content = os.urandom(9 * 2**20)
        store = open_store(URI, options)
        store.put({"a": [memoryview(content)]})
        store.get({"a": tmp_path / "a"})
        assert (tmp_path / "a").read_bytes() == content
        with pytest.raises(StorageError, match="certificate"):
            open_store(URI, options.model_copy(update={"ca_bundle": ""})).read("a")


def test_no_log_holds_a_secret(s3, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token-never-to-be-shown")
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("botocore").setLevel(logging.NOTSET)
        store = open_store(URI, S3Options(region="us-east-1", connections=5, patience=0))
        with suppress(StorageError):  # this server knows no tokens
            store.write("a", b"one")
            store.get({"a": tmp_path / "a"})
    assert caplog.text
    for secret in (SECRET, "a-token-never-to-be-shown", "Signature="):
        assert secret not in caplog.text
