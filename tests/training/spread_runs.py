"""One run in groups of processes: left alone, killed, gone on with, gone on with by other processes, and after damage.

    python -m tests.training.spread_runs HOME STRATEGY …

prints as JSON what became of it with each strategy, and on stderr what the runs say. This process loads the libraries
and trains nothing; the processes of a group are forks of it, real ones that SIGKILL really ends, without the seconds
that importing takes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from posttrain.components.catalogue import load_stage
from torch.distributed import TCPStore
from trl import SFTTrainer  # noqa: F401  # loaded here, once

from posttrain.errors import ContractError, GroupError
from posttrain.storage.history import History
from posttrain.storage.manifest import Manifest
from posttrain.storage.store import open_store
from posttrain.training import launch
from posttrain.training.callbacks import Listener
from posttrain.training.resuming import ResumesExactly  # noqa: F401
from tests.training.jobs import SUMS, answered, base, prepared, record, run, same_weights, weights
from tests.training.posing import pose_as_accelerators

# Three steps to an epoch, the last of them with wrapped rows.
SETTINGS: dict[str, Any] = {"max_steps": 7, "learning_rate": 1e-2, "seed": 7, "logging_steps": 2}
TWO, THREE = {"processes": 2, "batch_size": 3}, {"processes": 3, "batch_size": 2}
KILLED_AT = 5

killed_when: Callable[[], bool] | None = None  # when the next group is killed; until then it stays at KILLED_AT


def forked(processes: int, command: list[str], folder: Path, kept: bool = False) -> None:
    """In place of `launch.start`."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as the agent's, it outlives them all
    group = [_child(rank, processes, str(store.port), folder) for rank in range(processes)]
    while killed_when and not (killed_when() or any(map(_ended, group))):
        time.sleep(0.005)
    if killed_when:
        for process in group:
            os.kill(process, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in group]
    if any(codes):
        print(f"ended with {codes}", file=sys.stderr)
        launch._raise_left(folder)
        raise GroupError(f"ended with {codes}")


def _ended(process: int) -> bool:
    return bool(os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT))


def _child(rank: int, processes: int, port: str, folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    torch.set_num_threads(1)  # makes the thread pool that a fork lost, before two threads of autograd's would at once
    if killed_when:
        Listener.on_step_end = _stay  # type: ignore[method-assign]
    return launch.take_part(folder, load_stage)


def _stay(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
    if state.global_step == KILLED_AT:
        time.sleep(60)


def main(home: Path, strategy: str) -> dict[str, Any]:
    """What became of the run with a strategy."""
    global killed_when
    parents = {"init": base(home / "init", "llama", tie_word_embeddings=True)}
    parents["data"] = prepared(home / "data", answered(SUMS), "trajectories")

    def ran(out: str, kept: str = "", **settings: Any) -> Path:
        where = {"checkpoint_uri": str(home / kept), "checkpoint_steps": 1, "keep_last": 9} if kept else {}
        return run("sft", home / out, SETTINGS | {"strategy": strategy} | TWO | where | settings, **parents)

    alone = ran("alone")
    killed_when = lambda: any(home.glob("kept/*/commits/*.json"))  # noqa: E731
    with suppress(GroupError):
        ran("killed", "kept")
        raise AssertionError("it was not killed")
    killed_when = None
    again = ran("again", "kept", resume="must")
    found = {"exact": same_weights(alone, again), "from": record(again).counts["resumed_from_step"]}
    found["curves"] = record(alone).curves == record(again).curves

    last = newest(home / "kept")
    found |= {"files": sorted(last.files), "step": last.step}
    history_of(home / "kept").export(last, home / "exported")
    architectures = json.loads((home / "exported" / "config.json").read_text())["architectures"]
    found["exported"] = same_weights(home / "exported", alone) and architectures == ["LlamaForCausalLM"]

    shutil.copytree(home / "kept", home / "damaged")
    for ref in (ref for name, ref in last.files.items() if name.startswith("rank-00001.") and ref.size > 2**14):
        [blob] = home.glob(f"damaged/*/{ref.blob}")
        blob.write_bytes(bytes(ref.size))
    found["after damage"] = same_weights(alone, ran("after", "damaged", resume="must"))

    shutil.copytree(home / "kept", home / "elsewhere")
    for commit in home.glob("elsewhere/*/commits/*.json"):
        if int(commit.stem) > KILLED_AT:
            commit.unlink()
    try:
        other = ran("other", "elsewhere", resume="must", **THREE)
    except ContractError as error:
        return found | {"refused": str(error)}
    before, mine, theirs = weights(parents["init"]), weights(alone), weights(other)
    found["moved"] = max(float((mine[name] - before[name]).abs().max()) for name in mine)
    found["apart"] = max(float((mine[name] - theirs[name]).abs().max()) for name in mine)
    return found


def history_of(kept: Path) -> History:
    [place] = kept.glob("*/commits")
    return History(open_store(str(place.parent)))


def newest(kept: Path) -> Manifest:
    return history_of(kept).manifests()[-1]


if __name__ == "__main__":
    pose_as_accelerators()
    launch.start = forked
    print(json.dumps({strategy: main(Path(sys.argv[1]) / strategy, strategy) for strategy in sys.argv[2:]}))
