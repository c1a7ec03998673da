"""The node's cache: fetched once by many processes, verified, bounded, and nothing in use ever goes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain.artifacts.digests import RECORD_FILE
from posttrain.errors import ConfigError, DataError, StorageError
from posttrain.storage import cache, fetch, publish
from posttrain.storage.cache import Cache, cache_from
from posttrain.storage.s3 import S3Store
from tests.s3 import BUCKET, s3, s3_server

__all__ = ["s3", "s3_server"]
pytestmark = pytest.mark.xdist_group("s3")
KIB = 1024


@pytest.fixture
def kept(s3, tmp_path, monkeypatch):
    """A cache of 100 KiB that is switched on."""
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("POSTTRAIN_CACHE_SIZE", "100KiB")
    yield tmp_path / "cache"
    ended()


@pytest.fixture
def gets(monkeypatch):
    """How often a store was asked for files."""
    asked, get = [], S3Store.get
    monkeypatch.setattr(S3Store, "get", lambda self, files: (asked.append(self.uri), get(self, files)))
    return asked


def stored(name, size=KIB, record=""):
    source = Path(os.environ["POSTTRAIN_CACHE"]).parent / f"source-{name}"
    source.mkdir(exist_ok=True)
    (source / "model.bin").write_bytes(name.encode() * (size // len(name)))
    if record:
        (source / RECORD_FILE).write_text(record)
    publish(source, f"s3://{BUCKET}/{name}")
    return f"s3://{BUCKET}/{name}"


def ended():
    """As if this process had ended and another one came."""
    for lock in cache._in_use.values():
        os.close(lock)
    cache._in_use.clear()


def entries(kept):
    return sorted(path.name for path in kept.iterdir() if path.is_dir())


def test_what_was_fetched_is_used_again_in_the_same_place(kept, gets, tmp_path):
    uri = stored("a")
    first = fetch(uri, tmp_path / "one")
    assert fetch(uri, tmp_path / "two") == first
    assert first.is_relative_to(kept) and first.name == "a"
    assert (first / "model.bin").read_bytes() == b"a" * KIB
    assert len(gets) == 1 and not (tmp_path / "one").exists()


def test_a_file_alone_keeps_its_name(kept, gets, tmp_path):
    uri = f"{stored('a')}/model.bin"
    for _ in range(2):
        path = fetch(uri, tmp_path / "scratch")
        assert path.is_relative_to(kept) and path.name == "model.bin" and path.read_bytes() == b"a" * KIB
    assert len(gets) == 1


def test_what_is_not_there_is_said_as_without_a_cache(kept, tmp_path):
    with pytest.raises(DataError, match="nothing there; check bucket and key"):
        fetch(f"s3://{BUCKET}/missing", tmp_path / "scratch")


def test_new_content_is_another_entry(kept, gets, tmp_path):
    fetch(stored("a"), tmp_path)
    other = fetch(stored("a", 2 * KIB), tmp_path)
    assert (other / "model.bin").stat().st_size == 2 * KIB
    assert len(gets) == 2 and len(entries(kept)) == 2


def test_the_same_record_elsewhere_is_the_same_entry(kept, gets, tmp_path):
    for prefix in ("x", "y"):
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        (source / RECORD_FILE).write_text("the record")
        publish(source, f"s3://{BUCKET}/{prefix}/model")
        fetch(f"s3://{BUCKET}/{prefix}/model", tmp_path / "scratch")
    assert len(gets) == 1


def test_a_damaged_entry_is_fetched_again(kept, gets, tmp_path):
    uri = stored("a")
    path = fetch(uri, tmp_path)
    (path / "model.bin").write_bytes(b"b" * KIB)
    assert (fetch(uri, tmp_path) / "model.bin").read_bytes() == b"a" * KIB
    assert len(gets) == 2
    (path / "model.bin").unlink()
    assert (fetch(uri, tmp_path) / "model.bin").read_bytes() == b"a" * KIB
    assert not [name for name in entries(kept) if "going" in name]


def test_the_least_recently_used_goes_first(kept, gets, tmp_path):
    uris = [stored(name, 40 * KIB) for name in "abc"]
    a, b = (fetch(uri, tmp_path) for uri in uris[:2])
    ended()
    os.utime(a.parents[1] / "digests.json", (1, 1))
    assert fetch(uris[0], tmp_path) == a  # used since: now b is the older one
    ended()
    time.sleep(0.01)
    fetch(uris[2], tmp_path)
    assert a.exists() and not b.exists()
    assert len(gets) == 3


def test_nothing_in_use_goes_and_too_much_is_fetched_as_without_a_cache(kept, gets, tmp_path):
    a, b = (fetch(stored(name, 40 * KIB), tmp_path) for name in "ab")
    c = fetch(stored("c", 40 * KIB), tmp_path / "scratch")
    assert c == tmp_path / "scratch" / "c" and (c / "model.bin").stat().st_size == 40 * KIB
    assert a.exists() and b.exists()
    ended()
    large = fetch(stored("large", 200 * KIB), tmp_path / "scratch")
    assert large.is_relative_to(tmp_path / "scratch")


def test_a_fetch_that_fails_leaves_nothing(kept, tmp_path, monkeypatch):
    def fails(self, files):
        raise StorageError("gone")

    uri = stored("a")
    with monkeypatch.context() as patched:
        patched.setattr(S3Store, "get", fails)
        with pytest.raises(StorageError, match="gone"):
            fetch(uri, tmp_path)
    assert entries(kept) == []
    assert fetch(uri, tmp_path).is_relative_to(kept)


ONE = """
import sys, time
from pathlib import Path
from posttrain.storage import fetch
from posttrain.storage.s3 import S3Store

get = S3Store.get
def slow(self, files):
    with open(sys.argv[2], "a") as log:
        log.write("got\\n")
    get(self, files)
    time.sleep(float(sys.argv[3]))
S3Store.get = slow
path = fetch(sys.argv[1], Path(sys.argv[2]).parent / "scratch")
print(path, (path / "model.bin").stat().st_size, flush=True)
sys.stdin.read()
"""


def process(uri, log, seconds="0.3"):
    command = [sys.executable, "-c", ONE, uri, str(log), seconds]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(started):
    return started.stdout.readline().split()


def test_processes_at_once_fetch_once_and_keep_it_from_others(kept, tmp_path):
    log, uri = tmp_path / "log", stored("a", 60 * KIB)
    running = [process(uri, log) for _ in range(4)]
    paths = {tuple(said(started)) for started in running}
    assert len(paths) == 1 and log.read_text() == "got\n"
    path = Path(next(iter(paths))[0])
    other = stored("b", 60 * KIB)
    assert fetch(other, tmp_path / "scratch").is_relative_to(tmp_path / "scratch")  # four processes use the room
    for started in running:
        started.communicate()
    ended()
    assert fetch(other, tmp_path / "scratch").is_relative_to(kept)
    assert not path.exists()


def test_what_a_killed_process_left_is_taken_over(kept, tmp_path):
    log, uri = tmp_path / "log", stored("a", 60 * KIB)
    killed = process(uri, log, "100")
    while not (log.exists() and any(kept.glob("*.partial/files/a/model.bin"))):
        time.sleep(0.02)
    waits = process(uri, log, "0")
    killed.kill()
    killed.communicate()
    assert said(waits)[1] == str(60 * KIB)
    waits.communicate()
    assert log.read_text() == "got\n" * 2
    partial = kept / "0.partial"
    partial.mkdir()
    (partial / "size").write_text(str(90 * KIB))
    assert fetch(uri, tmp_path).is_relative_to(kept)
    ended()
    assert fetch(stored("b", 60 * KIB), tmp_path).is_relative_to(kept)  # what nobody fetches any more takes no room
    assert not partial.exists()


@pytest.mark.parametrize(
    ("size", "count"),
    [("", 100 * 2**30), ("1000", 1000), ("1.5GiB", 3 * 2**29), ("200Gi", 200 * 2**30), ("2TB", 2 * 10**12)],
)
def test_sizes(size, count):
    assert cache_from({"POSTTRAIN_CACHE": "/x", "POSTTRAIN_CACHE_SIZE": size}) == Cache(Path("/x"), count)


def test_no_directory_no_cache_and_no_size_no_start():
    assert cache_from({"POSTTRAIN_CACHE_SIZE": "1GiB"}) is None
    with pytest.raises(ConfigError, match="POSTTRAIN_CACHE_SIZE='much' is no size; give bytes"):
        cache_from({"POSTTRAIN_CACHE": "/x", "POSTTRAIN_CACHE_SIZE": "much"})


def test_a_directory_that_cannot_be_is_named(s3, kept, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "file"))
    uri = f"s3://{BUCKET}/a"
    s3.put("a/b")
    with pytest.raises(StorageError, match="file: File exists; check POSTTRAIN_CACHE, its owner and its room"):
        fetch(uri, tmp_path / "scratch")
