"""One contract for every store: on a disk and on a real S3 server."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from posttrain.errors import DataError
from posttrain.storage.store import Store, open_store
from tests.s3 import place, s3, s3_server

__all__ = ["place", "s3", "s3_server"]
pytestmark = pytest.mark.xdist_group("s3")


@pytest.fixture
def store(place) -> Store:
    return open_store(place)


def test_what_is_written_is_read(store):
    assert store.read("a/b") is None
    store.write("a/b", b"one")
    store.write("a/b", b"two")
    assert store.read("a/b") == b"two"


def test_creating_replaces_nothing(store):
    assert store.create("a/b", b"one")
    assert not store.create("a/b", b"two")
    assert store.read("a/b") == b"one"


def test_one_of_many_creators_wins(store):
    for turn in range(5):
        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(lambda n, turn=turn: store.create(f"claims/{turn}", b"%d" % n), range(4)))
        assert won.count(True) == 1
        assert store.read(f"claims/{turn}") == b"%d" % won.index(True)


def test_swapping_replaces_only_what_was_read(store):
    assert not store.swap("a/b", b"zero", b"one")
    assert store.swap("a/b", None, b"one")
    assert not store.swap("a/b", None, b"two")
    assert not store.swap("a/b", b"zero", b"two")
    assert store.swap("a/b", b"one", b"two")
    assert store.read("a/b") == b"two"
    assert [entry.name for entry in store.list()] == ["a/b"]


def test_of_many_who_swap_none_is_overwritten(store):
    def count(_):
        while True:
            seen = store.read("count")
            if store.swap("count", seen, b"%d" % (int(seen or 0) + 1)):
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(20)))
    assert store.read("count") == b"20"


def test_listing_is_in_order_with_sizes_and_times(store):
    for name in ("b/2", "b/10", "a", "bc"):
        store.write(name, name.encode())
    assert [(entry.name, entry.size) for entry in store.list()] == [("a", 1), ("b/10", 4), ("b/2", 3), ("bc", 2)]
    assert [entry.name for entry in store.list("b/")] == ["b/10", "b/2"]
    assert [entry.name for entry in store.list("b")] == ["b/10", "b/2", "bc"]
    assert all(abs(entry.modified - time.time()) < 100 for entry in store.list())


def test_files_and_pieces_are_put_and_got(store, tmp_path):
    (tmp_path / "file").write_bytes(b"from a file")
    store.put({"x/file": tmp_path / "file", "x/pieces": [memoryview(b"from "), memoryview(b"memory")]})
    store.get({"x/file": tmp_path / "out" / "1", "x/pieces": tmp_path / "out" / "2"})
    assert (tmp_path / "out" / "1").read_bytes() == b"from a file"
    assert (tmp_path / "out" / "2").read_bytes() == b"from memory"


def test_what_is_missing_is_named(store, tmp_path):
    with pytest.raises(DataError, match=r"nothing there|no such file"):
        store.get({"missing": tmp_path / "out"})
    assert not (tmp_path / "out").exists()


def test_deleting_what_is_not_there_is_no_error(store):
    store.write("a", b"")
    store.delete(["a", "b"])
    assert not list(store.list())
