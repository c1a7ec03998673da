"""What a real server refuses, and what is damaged there, is said in one line with the remedy."""

import errno
import socket
import threading

import pytest
from botocore.exceptions import ClientError

from posttrain.errors import RETRYABLE, USER_ERROR, ConfigError, RefusedError, StorageError
from posttrain.storage import fetch, publish
from posttrain.storage.failures import of_disk
from posttrain.storage.options import S3Options
from posttrain.storage.s3 import S3Store
from posttrain.storage.store import open_store
from tests.s3 import ACCESS, BUCKET, SECRET, command, s3, s3_server, versitygw

__all__ = ["s3", "s3_server"]
pytestmark = pytest.mark.xdist_group("s3")
OPTIONS = S3Options(region="us-east-1", patience=0)
URI = f"s3://{BUCKET}/failures"

USES = {
    "list": lambda store, path: list(store.list()),
    "read": lambda store, path: store.read("a"),
    "write": lambda store, path: store.write("a", b""),
    "create": lambda store, path: store.create("a", b""),
    "swap": lambda store, path: store.swap("a", None, b""),
    "get": lambda store, path: store.get({"a": path / "a"}),
    "large": lambda store, path: store.put({"a": [memoryview(bytes(9 * 2**20))]}),
    "delete": lambda store, path: store.delete(["a"]),
    "sweep": lambda store, path: store.sweep(0),
}


def all_say(what, uri, options, path, code=USER_ERROR):
    """Every use of the store ends with the code and one line with this in it, and with no secret."""
    for use in USES.values():
        with pytest.raises(StorageError) as raised:
            use(open_store(uri, options), path)
        line = str(raised.value)
        assert line.startswith(uri) and "\n" not in line and what in line
        assert raised.value.exit_code == code
        assert SECRET not in line and "guest-secret" not in line


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server with a bucket, and a user who may do nothing there."""
    home = tmp_path_factory.mktemp("guarded")
    (home / "users").mkdir()
    running = versitygw(home, "--iam-dir", str(home / "users"))
    if not running:
        pytest.skip("needs versitygw, or go to build it")
    with running as server:
        server.client.create_bucket(Bucket=BUCKET)
        server.client.put_object(Bucket=BUCKET, Key="failures/a", Body=b"one")
        admin = ["admin", "--access", ACCESS, "--secret", SECRET, "--endpoint-url", server.url, "create-user"]
        command(*admin, "--access", "guest", "--secret", "guest-secret", "--role", "user")
        yield server


def test_a_missing_right_is_named(guarded, s3, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", guarded.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "guest")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guest-secret")
    what = "permission denied; allow these credentials s3:ListBucket on the bucket, and s3:GetObject"
    all_say(what, URI, OPTIONS, tmp_path)


def test_a_wrong_secret_is_named(s3, monkeypatch, tmp_path):
    if not s3.checks_credentials:
        pytest.skip("moto lets any secret in; install go or versitygw")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guest-secret")
    all_say("the secret does not fit the access key; check AWS_SECRET_ACCESS_KEY", URI, OPTIONS, tmp_path)


def test_a_missing_bucket_is_named(s3, tmp_path):
    what = "there is no bucket 'no-such-bucket'; create it, or check its name and AWS_ENDPOINT_URL"
    all_say(what, "s3://no-such-bucket/failures", OPTIONS, tmp_path)


def test_another_region_is_found_where_the_store_tells_it(s3, tmp_path):
    store = open_store(URI, OPTIONS.model_copy(update={"region": "eu-west-1"}))
    store.put({"small": [memoryview(b"one")], "large": [memoryview(bytes(9 * 2**20))]})
    store.get({"small": tmp_path / "small"})
    assert (tmp_path / "small").read_bytes() == b"one"
    assert [entry.size for entry in store.list()] == [9 * 2**20, 3]


@pytest.mark.parametrize(("told", "remedy"), [({"Region": "eu-west-1"}, "to eu-west-1"), ({}, "to the bucket's")])
def test_another_region_is_named_where_it_cannot_be_followed(s3, tmp_path, monkeypatch, told, remedy):
    refusal = ClientError({"Error": {"Code": "AuthorizationHeaderMalformed", **told}}, "ListObjectsV2")
    monkeypatch.setattr(S3Store, "_ask", lambda *_, **__: (_ for _ in ()).throw(refusal))
    what = f"the bucket is in another region than the request was signed for; set AWS_REGION {remedy}"
    with pytest.raises(StorageError, match=what):
        list(open_store(URI, OPTIONS).list())


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (501, "NotImplemented", USER_ERROR),
        (403, "AccessDenied", USER_ERROR),
        (403, "ExpiredToken", RETRYABLE),
        (403, "RequestTimeTooSkewed", RETRYABLE),
        (412, "PreconditionFailed", RETRYABLE),
        (503, "SlowDown", RETRYABLE),
        (400, "QuotaExceeded", RETRYABLE),
    ],
)
def test_what_a_retry_meets_again_is_told_from_what_may_pass(s3, monkeypatch, status, said, code):
    answer = {"Error": {"Code": said, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    monkeypatch.setattr(S3Store, "_ask", lambda *_, **__: (_ for _ in ()).throw(ClientError(answer, "PutObject")))
    with pytest.raises(StorageError) as raised:
        open_store(URI, OPTIONS).read("a")
    assert raised.value.exit_code == code


def test_a_server_that_is_not_there_is_named(s3, tmp_path):
    away = OPTIONS.model_copy(update={"endpoint": "http://127.0.0.1:9"})
    what = "(tried 1 times in 0 s); check credentials, endpoint (AWS_ENDPOINT_URL) and bucket"
    all_say(what, URI, away, tmp_path, RETRYABLE)


@pytest.mark.parametrize(
    ("endpoint", "what"),
    [
        ("minio:9000", "Invalid endpoint: minio:9000; give a URL"),
        ("http://me:hidden@a b", "credentials do not belong in the endpoint"),
        ("https", "WRONG_VERSION_NUMBER"),
        ("ftp://host", "was not a valid URI"),
    ],
)
def test_an_endpoint_that_is_none_is_named(s3, monkeypatch, endpoint, what):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url.replace("http", "https") if endpoint == "https" else endpoint)
    with pytest.raises((ConfigError, RefusedError), match=what) as raised:
        open_store(URI, OPTIONS).read("a")
    assert "hidden" not in str(raised.value) and raised.value.exit_code == USER_ERROR


@pytest.mark.parametrize(("errno", "code"), [(socket.EAI_NONAME, USER_ERROR), (socket.EAI_AGAIN, RETRYABLE)])
def test_a_host_that_nobody_knows_is_told_from_a_name_server_that_is_away(s3, monkeypatch, errno, code):
    def getaddrinfo(*_, **__):
        raise socket.gaierror(errno, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(StorageError, match="tried 1 times") as raised:
        open_store(URI, OPTIONS.model_copy(update={"endpoint": "http://no-such-host.invalid"})).read("a")
    assert raised.value.exit_code == code


def test_a_server_that_hangs_up_is_asked_again(s3):
    """As one that restarts does in the middle of TLS's greeting."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: [listener.accept()[0].close() for _ in range(2)], daemon=True).start()
        options = OPTIONS.model_copy(update={"endpoint": f"https://127.0.0.1:{listener.getsockname()[1]}"})
        with pytest.raises(StorageError, match="tried") as raised:
            open_store(URI, options).read("a")
    assert raised.value.exit_code == RETRYABLE


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.EACCES, USER_ERROR), (errno.ENOTDIR, USER_ERROR), (errno.EROFS, USER_ERROR), (errno.ENOSPC, RETRYABLE)],
)
def test_what_a_disk_never_does_is_told_from_what_may_pass(number, code):
    with pytest.raises(StorageError, match="check the path, its owner and its room") as raised, of_disk("/place"):
        raise OSError(number, "no")
    assert raised.value.exit_code == code


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "model").mkdir()
    uri = f"file://{tmp_path}/file/below"
    acts = [lambda: publish(tmp_path / "model", uri), lambda: open_store(uri).write("a", b"")]
    for act in acts:
        with pytest.raises(RefusedError, match="check the path, its owner and its room"):
            act()


@pytest.mark.parametrize("size", [1000, 9 * 2**20])
def test_an_object_cut_short_in_the_store_is_not_taken_for_whole(s3, tmp_path, size):
    if not s3.data:
        pytest.skip("needs the server's own files")
    store = open_store(URI, OPTIONS)
    store.put({"a": [memoryview(bytes(range(250)) * (size // 250))]})
    with (s3.data / BUCKET / "failures" / "a").open("rb+") as file:
        file.truncate(size // 2)
    with pytest.raises(StorageError, match="the object, or the way to it, is damaged: send it again"):
        store.get({"a": tmp_path / "got" / "a"})
    assert not list((tmp_path / "got").iterdir())


def test_a_link_to_a_file_is_published_as_the_file(s3, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "blob").write_bytes(b"weights")
    (tmp_path / "model" / "model.safetensors").symlink_to(tmp_path / "blob")
    for uri in (URI, str(tmp_path / "published")):
        publish(tmp_path / "model", uri)
        assert (fetch(uri, tmp_path / "scratch") / "model.safetensors").read_bytes() == b"weights"
    assert not (tmp_path / "published" / "model.safetensors").is_symlink()
