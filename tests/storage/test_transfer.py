"""Large objects in many parts: sent and fetched whole, compared, and taken back when something fails."""

import io
import math
import os
import subprocess
import sys
import time
from http.client import HTTPResponse
from itertools import pairwise
from types import SimpleNamespace

import pytest

from posttrain.errors import DataError, StorageError
from posttrain.storage import checksums, transfer
from posttrain.storage.options import S3Options
from posttrain.storage.retries import Damaged, GaveUp, Retries, Stopped, may_pass
from posttrain.storage.sources import Stretch
from posttrain.storage.store import open_store
from tests.disk import KIB, small_disk
from tests.s3 import BUCKET, s3, s3_server

__all__ = ["s3", "s3_server", "small_disk"]
pytestmark = pytest.mark.xdist_group("s3")
MIB = 2**20


@pytest.fixture
def store(s3, monkeypatch):
    """A store that sends and fetches in parts of the smallest size that S3 allows."""
    monkeypatch.setattr(transfer, "part_size", lambda sizes, connections: 5 * MIB)
    return open_store(f"s3://{BUCKET}/large", S3Options(region="us-east-1", connections=4, patience=1))


def uploads(s3):
    return s3.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])


def test_files_and_pieces_of_many_parts_arrive_whole(store, s3, tmp_path):
    content = os.urandom(12 * MIB + 345)
    (tmp_path / "file").write_bytes(content)
    cut = [0, 7, 7, 3 * MIB, 9 * MIB + 1, len(content)]
    pieces = [memoryview(content)[start:end] for start, end in pairwise(cut)]
    store.put({"file": tmp_path / "file", "pieces": pieces, "empty": [], "small": [memoryview(b"small")]})
    sizes = {"empty": 0, "file": len(content), "pieces": len(content), "small": 5}
    assert {entry.name: entry.size for entry in store.list()} == sizes
    store.get({name: tmp_path / "got" / name for name in sizes})
    assert (tmp_path / "got" / "file").read_bytes() == (tmp_path / "got" / "pieces").read_bytes() == content
    assert (tmp_path / "got" / "empty").read_bytes() == b""
    assert sorted(path.name for path in (tmp_path / "got").iterdir()) == sorted(sizes)
    head = s3.client.head_object(Bucket=BUCKET, Key="large/file", ChecksumMode="ENABLED")
    assert head["ChecksumCRC64NVME"] == checksums.encoded(checksums.checksum(content))


def test_pieces_may_be_of_other_items_than_bytes(store, tmp_path):
    from array import array

    numbers = array("d", range(1000))
    store.put({"numbers": [memoryview(numbers)]})
    store.get({"numbers": tmp_path / "numbers"})
    assert (tmp_path / "numbers").read_bytes() == numbers.tobytes()


def test_checksums_of_parts_give_that_of_the_whole():
    whole = os.urandom(1000)
    parts = [whole[:1], whole[1:700], whole[700:]]
    assert checksums.combined((checksums.checksum(part), len(part)) for part in parts) == checksums.checksum(whole)
    assert checksums.encoded(checksums.checksum(b"123456789")) == "rosUhgp5mIg="  # CRC-64/NVME's check value


def test_a_part_that_the_store_got_otherwise_fails_the_upload_and_leaves_none(store, s3, tmp_path, monkeypatch):
    monkeypatch.setattr(Stretch, "checksum", lambda self: 1)
    with pytest.raises(StorageError, match=r"large: .*tried \d+ times") as raised:
        store.put({"file": [memoryview(bytes(11 * MIB))]})
    assert "\n" not in str(raised.value)
    assert not uploads(s3) and not list(store.list())


def test_one_part_that_fails_ends_all_and_leaves_no_upload(store, s3, monkeypatch):
    sent = transfer.Transfer._send_part

    def fails(self, upload, number, body):
        if number == 2:
            raise StorageError("gone")
        return sent(self, upload, number, body)

    monkeypatch.setattr(transfer.Transfer, "_send_part", fails)
    with pytest.raises(StorageError, match="gone"):
        store.put({"one": [memoryview(bytes(11 * MIB))], "two": [memoryview(bytes(11 * MIB))]})
    assert not uploads(s3) and not list(store.list())


def test_bytes_that_change_on_the_way_are_fetched_again(store, tmp_path, monkeypatch):
    content, read, spoiled = os.urandom(11 * MIB), transfer._read, []

    def flips(raw, block, until):
        got = read(raw, block, until)
        if len(spoiled) < 2:
            spoiled.append(block[0])
            block[0] ^= 1
        return got

    store.put({"file": [memoryview(content)]})
    monkeypatch.setattr(transfer, "_read", flips)
    store.get({"file": tmp_path / "file"})
    assert spoiled and (tmp_path / "file").read_bytes() == content


def test_a_damaged_object_is_never_taken_for_whole(store, s3, tmp_path, monkeypatch):
    store.put({"file": [memoryview(bytes(1000))]})
    monkeypatch.setattr(transfer.Transfer, "_get_part", lambda *_: 7)
    with pytest.raises(StorageError, match=r"large/file: its checksum is .* as the store says \(tried \d+ times"):
        store.get({"file": tmp_path / "got" / "file"})
    assert not list((tmp_path / "got").iterdir())


def test_an_answer_that_breaks_off_is_gone_on_with(store, tmp_path, monkeypatch):
    content, read, calls = os.urandom(11 * MIB), transfer._read, []

    def breaks(raw, block, until):
        calls.append(1)
        if len(calls) % 3 == 0:
            raise Damaged("the answer ended early")
        return read(raw, block, until)

    store.put({"file": [memoryview(content)]})
    monkeypatch.setattr(transfer, "_read", breaks)
    store.get({"file": tmp_path / "file"})
    assert (tmp_path / "file").read_bytes() == content


def test_an_answer_that_ends_within_a_block_has_ended_early():
    class Line:
        def makefile(self, mode):
            return io.BytesIO(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 40)

    answer = HTTPResponse(Line())
    answer.begin()
    raw, block = SimpleNamespace(_fp=answer), memoryview(bytearray(100))
    assert transfer._read(raw, block, math.inf) == 40
    with pytest.raises(Damaged, match="ended early"):
        transfer._read(raw, block[40:], math.inf)


def test_one_range_that_fails_for_good_ends_the_others(store, tmp_path, monkeypatch):
    store.put({"file": [memoryview(bytes(11 * MIB))]})
    write = transfer._write

    def fails(path, file, block, at):
        if at >= 10 * MIB:
            raise OSError(5, "Input/output error", str(path))
        time.sleep(0.05)
        write(path, file, block, at)

    monkeypatch.setattr(transfer, "_write", fails)
    with pytest.raises(StorageError, match="Input/output error; check the path and its owner"):
        store.get({"file": tmp_path / "file"})
    assert not list(tmp_path.iterdir())


def test_an_object_replaced_meanwhile_is_not_mixed(store, tmp_path, monkeypatch):
    store.put({"file": [memoryview(bytes(11 * MIB))]})
    monkeypatch.setattr(transfer, "_preallocate", lambda path, size: (path.touch(), store.write("file", b"other")))
    with pytest.raises(StorageError, match="an object was replaced while it was fetched; fetch again"):
        store.get({"file": tmp_path / "file"})
    assert not list(tmp_path.iterdir())


def test_a_file_that_shrinks_while_it_is_sent_is_named(store, tmp_path):
    (tmp_path / "file").write_bytes(bytes(100))
    stretch = Stretch(tmp_path / "file", 0, 200)
    with pytest.raises(StorageError, match="file: became shorter while it was sent"):
        stretch.checksum()


def test_a_full_disk_is_known_before_anything_is_fetched(store, small_disk):
    store.put({"small": [memoryview(b"small")], "large": [memoryview(bytes(2 * KIB * 1024))]})
    with pytest.raises(StorageError, match=r"No space left on device; free some room") as raised:
        store.get({name: small_disk / name for name in ("small", "large")})
    assert str(small_disk) in str(raised.value)
    assert not list(small_disk.iterdir())


def test_old_uploads_are_swept_and_young_ones_stay(store, s3):
    s3.client.create_multipart_upload(Bucket=BUCKET, Key="large/dead")
    s3.client.create_multipart_upload(Bucket=BUCKET, Key="elsewhere/dead")
    assert store.sweep(older=100) == 0
    time.sleep(1.1)  # the store's clock has seconds only
    assert store.sweep(older=0) == 1
    assert [upload["Key"] for upload in uploads(s3)] == ["elsewhere/dead"]
    s3.client.abort_multipart_upload(Bucket=BUCKET, Key="elsewhere/dead", UploadId=uploads(s3)[0]["UploadId"])


def test_many_are_deleted_by_one_request_or_one_by_one(store, monkeypatch):
    asked = []
    ask = type(store)._ask

    def counts(self, operation, **arguments):
        asked.append(operation)
        if operation == "delete_objects" and len(asked) > 1:
            operation, arguments = "get_object", {"Key": "large/missing"}  # a store that does not know it
        return ask(self, operation, **arguments)

    for name in "abcd":
        store.write(name, b"")
    monkeypatch.setattr(type(store), "_ask", counts)
    store.delete(["a", "b"])
    assert asked == ["delete_objects"]
    store.delete(["c", "d"])
    assert asked[1:] == ["delete_objects", "delete_object", "delete_object"]
    monkeypatch.undo()
    assert not list(store.list())


def test_a_creator_whose_answer_was_lost_knows_its_object(store, monkeypatch):
    ask, lost = type(store)._ask, []

    def loses(self, operation, **arguments):
        answer = ask(self, operation, **arguments)
        if operation == "put_object" and len(lost) < 1:
            lost.append(1)
            raise ConnectionResetError
        return answer

    monkeypatch.setattr(type(store), "_ask", loses)
    assert store.create("claim", b"mine")
    lost.clear()
    assert store.swap("claim", b"mine", b"mine again")
    lost.clear()
    store.delete(["claim"])
    store.write("claim", b"theirs")
    assert not store.create("claim", b"mine")


def test_retries_end_and_may_be_stopped():
    calls = []

    def fails():
        calls.append(1)
        raise ConnectionResetError("reset")

    with pytest.raises(GaveUp, match=r"tried \d+ times in \d s"):
        Retries(patience=0.3)(fails)
    assert len(calls) > 1
    stopped = Retries(patience=100)
    stopped.stop()
    with pytest.raises(Stopped):
        stopped(fails)
    with pytest.raises(ZeroDivisionError):
        Retries(patience=100)(lambda: 1 / 0)


def test_what_no_retry_mends_is_not_retried(store, s3, tmp_path):
    for error in (StorageError("full"), OSError(28, "No space left"), KeyError("x"), DataError("no")):
        assert not may_pass(error)
    for error in (TimeoutError(), ConnectionResetError(), Damaged("x")):
        assert may_pass(error)


MEASURED = """
import sys
from pathlib import Path
from posttrain.storage.store import open_store
from posttrain.storage.options import S3Options

store = open_store(sys.argv[1], S3Options(region="us-east-1", connections=32))
directory = Path(sys.argv[2])
store.put({"file": directory / "sent"})
store.get({"file": directory / "got"})
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) // 1024)
"""


def test_memory_does_not_grow_with_the_object(s3, tmp_path):
    with (tmp_path / "sent").open("wb") as file:
        file.truncate(128 * MIB)
    command = [sys.executable, "-c", MEASURED, f"s3://{BUCKET}/memory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "got").stat().st_size == 128 * MIB
    assert int(done.stdout) < 140
