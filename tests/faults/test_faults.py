"""Object storage through a line that breaks: nothing wrong is accepted, nothing hangs, nothing is done twice."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from posttrain.errors import RETRYABLE, StorageError
from posttrain.storage.retries import Retries, Stopped
from posttrain.storage.store import Store, open_store
from posttrain.storage.transfer import SLOWEST
from tests.disk import small_disk
from tests.faults.drill import OPERATIONS, Drill
from tests.faults.proxy import AFTER, Plan, Proxy, proxy
from tests.s3 import BUCKET, Server, _moto, s3, s3_server

__all__ = ["s3", "s3_server", "small_disk"]
pytestmark = pytest.mark.xdist_group("s3")

TIMEOUT, PATIENCE = 0.3, 20.0


@pytest.fixture(scope="session")
def line(s3_server):
    with proxy(s3_server.url, Plan()) as started:
        yield started


@pytest.fixture
def broken(s3: Server, line: Proxy, monkeypatch, tmp_path) -> Proxy:
    """The proxy as the endpoint, and a client that gives up early, so that a test need not wait."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
    monkeypatch.setenv("POSTTRAIN_S3_TIMEOUT", str(TIMEOUT))
    monkeypatch.setenv("POSTTRAIN_S3_PATIENCE", str(PATIENCE))
    line.follow(Plan())
    line.injected()
    return line


def opened() -> Store:
    return open_store(f"s3://{BUCKET}/drill")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_is_right_whatever_befalls_its_requests(operation, s3, broken, tmp_path):
    drill, injected = Drill(opened(), s3, tmp_path), 0
    for seed in count():
        broken.follow(Plan(seed=seed, rate=0.35, stall=3 * TIMEOUT, drip=10e6))
        assert drill.run(operation) == "right", drill.refusal
        injected += broken.counts().total()
        if injected > 1:
            break


def test_what_was_stopped_is_not_begun_again():
    """A part of a file that goes on where its answer broke off would else go on for ever."""
    retries = Retries(patience=1)
    retries.stop()
    with pytest.raises(Stopped):
        retries(lambda: 0)


def test_a_claim_whose_answer_is_lost_is_ours_and_nobody_elses(s3, broken):
    for kind in AFTER:
        broken.follow(Plan(script=(kind,), only="^PUT", stall=3 * TIMEOUT))
        assert opened().create(kind, b"mine")
        assert not opened().create(kind, b"theirs")
        assert s3.client.get_object(Bucket=BUCKET, Key=f"drill/{kind}")["Body"].read() == b"mine"
        assert broken.counts() == {kind: 1}


def test_of_two_who_claim_through_a_broken_line_one_wins(s3, broken):
    broken.follow(Plan(rate=0.5, kinds=("reset_after", "error_after", "reset_before"), only="^PUT"))
    for turn in range(5):
        with ThreadPoolExecutor(2) as pool:
            won = list(pool.map(lambda mine, turn=turn: opened().create(f"{turn}", mine), [b"a", b"b"]))
        held = s3.client.get_object(Bucket=BUCKET, Key=f"drill/{turn}")["Body"].read()
        assert won == [held == b"a", held == b"b"]
    assert broken.counts().total() > 0


def test_a_file_in_parts_whose_completion_is_lost_is_there_once(s3, broken, tmp_path):
    content = bytes(range(256)) * (36 << 10)
    (tmp_path / "file").write_bytes(content)
    opened().sweep(older=-60)
    for kind in AFTER:
        broken.follow(Plan(script=(kind,), only="^POST .*uploadId", stall=3 * TIMEOUT))
        opened().put({kind: tmp_path / "file"})
        assert broken.counts() == {kind: 1}
        assert s3.client.get_object(Bucket=BUCKET, Key=f"drill/{kind}")["Body"].read() == content
    assert opened().sweep(older=-60) == 0


@pytest.mark.parametrize("kind", ["slow_down", "reset_before", "stall_before"])
def test_what_never_heals_ends_in_one_line_within_the_budget(kind, s3, broken, tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_S3_PATIENCE", "0.5")
    s3.put("drill/a")
    store = opened()
    works = [
        lambda: store.write("b", b"x"),
        lambda: store.create("c", b"x"),
        lambda: store.read("a"),
        lambda: list(store.list()),
        lambda: store.get({"a": tmp_path / "a"}),
        lambda: store.delete(["a"]),
    ]
    broken.follow(Plan(rate=1, kinds=(kind,), stall=60))
    for work in works:
        started = time.monotonic()
        with pytest.raises(StorageError) as error:
            work()
        assert error.value.exit_code == RETRYABLE
        assert "\n" not in str(error.value)
        assert time.monotonic() - started < 30  # half of what the line is silent for
    assert not list(tmp_path.iterdir())
    assert s3.stored() == ["drill/a"]


def test_a_line_that_drips_has_failed_and_a_slow_one_has_not(s3, broken, tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_S3_PATIENCE", "0.5")
    s3.put("drill/a", b"x" * 3000)
    broken.follow(Plan(rate=1, kinds=("dripped",), drip=3 * SLOWEST))
    opened().get({"a": tmp_path / "a"})
    assert (tmp_path / "a").read_bytes() == b"x" * 3000
    assert broken.counts().total() > 1  # each answer went on where the one before was left
    broken.follow(Plan(rate=1, kinds=("dripped",), drip=SLOWEST / 2))
    with pytest.raises(StorageError, match=r"a: \d+ bytes came in 0.3 s \(tried \d times") as error:
        opened().get({"a": tmp_path / "b"})
    assert error.value.exit_code == RETRYABLE and not (tmp_path / "b").exists()
    broken.follow(Plan(bandwidth=SLOWEST / 2))
    with pytest.raises(StorageError, match=r"tried \d times") as error:
        opened().put({"b": [memoryview(bytes(9 << 20))], "c": [memoryview(bytes(3000))]})
    assert error.value.exit_code == RETRYABLE and s3.stored() == ["drill/a"]


def test_a_full_disk_is_named_and_leaves_nothing(s3, broken, small_disk):
    s3.put("drill/a", b"x" * 100_000)
    broken.follow(Plan(script=("error_500", "reset_before")))
    with pytest.raises(StorageError, match=r"No space left.*room"):
        opened().get({"a": small_disk / "a"})
    assert not list(small_disk.iterdir())


def test_expired_credentials_are_renewed(tmp_path, monkeypatch, broken):
    """Credentials that a cluster renews in a mounted file, which boto3 reads once; moto takes sessions' tokens."""
    file = tmp_path / "credentials"

    def give(token: str) -> None:
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "aws_session_token": token}
        file.write_text("[default]\n" + "".join(f"{name}={value}\n" for name, value in keys.items()))

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("POSTTRAIN_S3_PATIENCE", "1")
    with _moto() as server, proxy(server.url, Plan(script=("", "expired"))) as line:
        server.client.create_bucket(Bucket=BUCKET)
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        give("first")
        store = opened()
        store.write("a", b"one")
        with pytest.raises(StorageError, match=r"expired.*renew"):
            store.write("a", b"two")
        give("second")
        store.write("a", b"three")
        store.get({"a": tmp_path / "out"})
        assert (tmp_path / "out").read_bytes() == b"three"
        assert line.counts() == {"expired": 1}


def test_a_clock_that_is_off_is_named(s3, broken, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_S3_PATIENCE", "0.5")
    broken.follow(Plan(rate=1, kinds=("skewed",)))
    with pytest.raises(StorageError, match="clock"):
        opened().write("a", b"x")


@pytest.mark.parametrize("content", [b"", b"x"])
def test_a_refusal_without_a_body_is_asked_for_its_reason(content, s3, broken, tmp_path):
    s3.put("drill/a", content)
    broken.follow(Plan(script=("skewed", "", "expired"), only="HEAD|GET /bucket/"))
    opened().get({"a": tmp_path / "a"})
    assert (tmp_path / "a").read_bytes() == content
    assert broken.counts() == {"skewed": 1, "expired": 1}


def test_the_plan_is_the_same_whatever_the_order_of_requests(s3, broken):
    def injected() -> set[str]:
        broken.follow(Plan(rate=0.4, kinds=("error_500", "error_502"), only="^PUT", seed=1))
        opened().put({f"{number}": [memoryview(b"x")] for number in range(20)})
        return {f"{item}" for item in broken.injected()}

    assert injected() == injected() != set()
