"""Whatever happens while an artifact is written: all of it is there, or nothing."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from posttrain.artifacts.artifact import whole_or_nothing
from posttrain.artifacts.digests import content_files
from posttrain.artifacts.record import has_record, read_record
from posttrain.artifacts.rows import write_table
from posttrain.errors import RETRYABLE, ContractError, DataError, StorageError
from tests.disk import small_disk

__all__ = ["small_disk"]


def test_what_ends_well_is_there_under_its_name(tmp_path):
    out = tmp_path / "deep" / "out"
    with whole_or_nothing(out) as scratch:
        (scratch / "rows").write_text("rows")
        assert not out.exists()
    assert (out / "rows").read_text() == "rows"
    assert list(out.parent.iterdir()) == [out]
    assert out.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, PermissionError])
def test_an_exception_leaves_nothing_and_passes(tmp_path, error):
    def interrupted():
        with whole_or_nothing(tmp_path / "out") as scratch:
            (scratch / "rows").write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_is_taken_over_and_a_full_one_is_not(tmp_path):
    (tmp_path / "out").mkdir()
    with whole_or_nothing(tmp_path / "out") as scratch:
        (scratch / "rows").write_text("first")
    with pytest.raises(ContractError, match="exists already; choose another output"):
        whole_or_nothing(tmp_path / "out").__enter__()
    assert (tmp_path / "out" / "rows").read_text() == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_file_in_the_way_is_not_touched(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ContractError, match="exists already"), whole_or_nothing(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "mine"


_HALF = """
import sys, time
from pathlib import Path
from posttrain.artifacts.artifact import whole_or_nothing
with whole_or_nothing(Path(sys.argv[1])) as scratch:
    (scratch / "rows").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_nothing_that_could_be_taken_for_whole(tmp_path):
    out = tmp_path / "out"
    child = subprocess.Popen([sys.executable, "-c", _HALF, str(out)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "writing\n"
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    assert not out.exists()
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.startswith(".out.")
    assert leftover.name.endswith(".partial")
    assert not has_record(leftover)
    assert content_files(tmp_path) == []
    with pytest.raises(DataError, match="no stage finished writing it"):
        read_record(leftover)
    with whole_or_nothing(out) as scratch:
        (scratch / "rows").write_text("whole")
    assert (out / "rows").read_text() == "whole"


_TOO_LARGE = """
import resource, sys
from pathlib import Path
from posttrain.artifacts.artifact import whole_or_nothing
from posttrain.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with whole_or_nothing(Path(sys.argv[1])) as scratch:
        (scratch / "rows").write_bytes(b"0" * 5000)
except StorageError as error:
    sys.exit(str(error))
"""


def test_a_file_over_the_limit_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", _TOO_LARGE, str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.stderr == f"{tmp_path / 'out'}: no room left on the disk; free some or choose another output\n"
    assert list(tmp_path.iterdir()) == []


WRITERS = {
    "bytes": lambda directory: (directory / "x").write_bytes(os.urandom(200_000)),
    "parquet": lambda directory: write_table([{"a": str(n * 7919)} for n in range(40_000)], directory / "x.parquet"),
    "safetensors": lambda directory: save_file({"w": torch.zeros(50_000)}, directory / "x.safetensors"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_nothing_and_may_be_retried(small_disk, writer):
    def write():
        with whole_or_nothing(small_disk / "out") as scratch:
            WRITERS[writer](scratch)

    with pytest.raises(StorageError, match="no room left on the disk") as raised:
        write()
    assert raised.value.exit_code == RETRYABLE
    assert list(small_disk.iterdir()) == []
