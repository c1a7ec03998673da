"""A group of processes: one error, nothing left running, whole weights."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.artifacts import provenance
from posttrain.errors import GroupError, StorageError
from posttrain.report.charts import LineChart, Series
from posttrain.report.page import Facts, Sample, Samples, Section, Table
from posttrain.stage import Work
from posttrain.training import handover
from posttrain.training.launch import start


def test_work_comes_over_whole() -> None:
    blocks = [
        Section("s", [Table(["a", "b"], [["x", None]]), LineChart("l", "step", "", [Series("loss", [[0, 1.5]])])]),
        Samples([Sample("p", "c", 0.5)]),
        Facts([["k", 2]]),
    ]
    work = Work(
        trace=provenance.online({0: 3, 2: 1}, "me", 0),
        facts={"eos": "1", "parameters": 3, "share": 0.5},
        metrics={"loss": 1.0, "nothing": math.nan},
        counts={"rows": 4},
        curves={"loss": [[1.0, 2.0]]},
        blocks=blocks,
    )
    back = handover.load(handover.dump(work))
    assert math.isnan(back.metrics.pop("nothing")) and math.isnan(work.metrics.pop("nothing"))
    assert back == work


# What a process does, in place of a stage: the first waits for the second, which fails.
WAITING = "import os, sys, time; from pathlib import Path; from posttrain import errors\n"
WAITING += "from posttrain.training.launch import _leave\nif os.environ['RANK'] == '0': time.sleep(300)\n"


def fail(folder: Path, how: str) -> None:
    start(2, ["-c", WAITING + how, str(folder)], folder)


def test_the_first_error_of_any_process_ends_all(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"^disk: gone$") as raised:
        fail(tmp_path, "_leave(Path(sys.argv[1]), errors.StorageError('disk: gone'))")
    assert raised.value.exit_code == 75


def test_a_fault_of_ours_names_its_process(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^process 1: ZeroDivisionError: ours$"):
        fail(tmp_path, "_leave(Path(sys.argv[1]), ZeroDivisionError('ours'))")


def test_a_process_that_is_killed_ends_all(tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(GroupError, match="process 1 was killed by SIGKILL") as raised:
        fail(tmp_path, "import signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert raised.value.exit_code == 75
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


def wait_for(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_ends_the_whole_group(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = "import os, sys, time; from posttrain.training.launch import _end_with_parent; _end_with_parent()\n"
    process += "open(os.path.join(sys.argv[1], os.environ['RANK']), 'w').write(str(os.getpid())); time.sleep(300)"
    group = "import sys; from pathlib import Path; from posttrain.training.launch import start\n"
    group += f"start(2, ['-c', {process!r}, sys.argv[1]], Path(sys.argv[1]))"
    agent = subprocess.Popen([sys.executable, "-c", group, str(tmp_path)], stderr=subprocess.DEVNULL)
    files = [tmp_path / "0", tmp_path / "1"]
    wait_for(lambda: all(file.is_file() and file.read_text() for file in files))
    agent.send_signal(number)
    assert agent.wait(60) == code
    left = [Path("/proc", file.read_text()) for file in files]
    wait_for(lambda: not any(process.exists() for process in left))


SHARDED = """
import os, sys, torch
from pathlib import Path
from torch.distributed import destroy_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from posttrain.training.ranks import is_spread, whole_weights

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Embedding(6, 4), torch.nn.Linear(4, 6, bias=False))
model[1].weight = model[0].weight
before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
assert not is_spread(model)
fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
assert is_spread(model)
whole = whole_weights(model)
if os.environ["RANK"] == "0":
    assert whole.keys() == before.keys() and all(torch.equal(whole[name], before[name]) for name in before)
    assert whole["0.weight"] is whole["1.weight"], "tied weights would be stored twice"
else:
    assert whole == {}
Path(sys.argv[1], os.environ["RANK"]).touch()
destroy_process_group()
"""


def test_sharded_weights_are_gathered_on_the_first_process(tmp_path: Path) -> None:
    start(2, ["-c", SHARDED, str(tmp_path)], tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"0", "1"}
