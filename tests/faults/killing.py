"""A training run that is killed again and again, and started again each time, until it comes to its end.

    python -m tests.faults.killing HOME JOB,JOB PLACE URI SEED KILLS

keeps runs below URI, and prints a JSON line for what each job makes undisturbed, for every kill, and for the end of
every run. This process loads the libraries and trains nothing; each attempt is a fork of it, a real process that
SIGKILL really ends, without the seconds that importing takes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets  # noqa: F401  # loaded here, once
import peft  # noqa: F401
import trl  # noqa: F401
from trl import DistillationTrainer, GRPOTrainer, SFTTrainer  # noqa: F401

from posttrain.artifacts.record import read_record
from posttrain.storage.checkpoints import Checkpoints
from posttrain.storage.layout import COMMITS
from posttrain.storage.local import LocalStore
from posttrain.storage.s3 import S3Store
from posttrain.storage.store import open_store
from posttrain.training import run as training
from posttrain.training.callbacks import Listener
from posttrain.training.resuming import ResumesExactly
from posttrain.training.snapshot import HostCopies
from tests.training.jobs import run
from tests.training.kept_jobs import job

STEPS = 12
STORES = (LocalStore, S3Store)
# Where a process can be killed by itself: name → classes (or module) and method, and whether before or after the call.
POINTS: dict[str, tuple[Any, str, str]] = {
    "before the copy": (HostCopies, "copy", "before"),
    "after the copy": (HostCopies, "copy", "after"),
    "half of it sent": (STORES, "put", "within"),
    "sent, not committed": (Checkpoints, "add", "after"),
    "in the commit": (Checkpoints, "_created", "before"),
    "committed": (Checkpoints, "commit", "after"),
    "in pruning": (STORES, "delete", "before"),
    "claimed": (Checkpoints, "claim", "after"),
    "fetched": (Checkpoints, "restore", "after"),
    "restored": (ResumesExactly, "_restore", "after"),
    "trained, not written": (training, "save_policy", "before"),
    "written": (training, "save_policy", "after"),
}


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(point: str, time_of: int) -> None:
    """Have this process kill itself there, the first time or a later one; nowhere if no point is named."""
    if not point:
        return
    owners, name, when = POINTS[point]
    for owner in owners if isinstance(owners, tuple) else (owners,):
        setattr(owner, name, killed_in(getattr(owner, name), when, time_of))


def killed_in(call: Callable[..., Any], when: str, time_of: int) -> Callable[..., Any]:
    """The call, which ends this process the first time or a later one."""
    calls = 0

    def killing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == time_of:
            if when == "within":
                store, sources = args
                call(store, dict(list(sources.items())[: len(sources) // 2]))
            elif when == "after":
                call(*args, **kwargs)
            kill()
        return call(*args, **kwargs)

    return killing


def attempt(home: Path, name: str, place: Path, kept: str, before: Callable[[], None] = lambda: None) -> int:
    """Start a process that trains into `place/out` and is kept there, if anywhere; `place/steps` has a byte a step.

    Returns its id.
    """
    (place / "steps").write_text("")
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        sys.stderr = (place / "log").open("a")
        listen = Listener.on_step_end

        def counted(self: Any, *args: Any, **kwargs: Any) -> None:
            listen(self, *args, **kwargs)
            with (place / "steps").open("a") as file:
                file.write(".")

        Listener.on_step_end = counted  # type: ignore[method-assign]
        before()
        stage, settings, parents = job(home, name)
        where = {"checkpoint_uri": kept, "checkpoint_steps": 1} if kept else {}
        run(stage, place / "out", settings | {"max_steps": STEPS} | where, **parents)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def last_commit(kept: str) -> int:
    """The step of the newest checkpoint."""
    names = [Path(entry.name) for entry in open_store(kept).list() if f"/{COMMITS}" in entry.name]
    return max((int(name.stem) for name in names), default=0)


class Killer:
    """Draws moments: in turn one by the clock, over the time that a run takes, and one of `POINTS`."""

    def __init__(self, seed: str, seconds: float) -> None:
        self._chance, self._seconds, self._drawn = random.Random(seed), seconds, 0
        self._points: list[str] = []

    def next(self) -> tuple[float, str, int]:
        """Seconds after which to kill, or else the point, and the how manieth time that it is come to."""
        self._drawn += 1
        if self._drawn % 2:
            return self._chance.uniform(0.05, self._seconds), "", 0
        self._points = self._points or self._chance.sample(sorted(POINTS), len(POINTS))
        point = self._points.pop()
        return 0.0, point, 1 if point in _ONCE else self._chance.randint(1, 3)


_ONCE = ("claimed", "fetched", "restored", "trained, not written", "written")


def main(home: Path, names: list[str], place: Path, uri: str, seed: int, kills: int) -> None:
    """Kill each job so many times, over as many whole runs as that takes."""
    for name in names:
        alone = place / name / "alone"
        alone.mkdir(parents=True)
        start = time.monotonic()
        assert wait(attempt(home, name, alone, kept=""), 0) == (False, 0), (alone / "log").read_text()
        killer = Killer(f"{seed} {name}", 1.2 * (time.monotonic() - start))
        tell(job=name, alone=read_record(alone / "out").digest)
        left, number = kills, 0
        while left > 0:
            number += 1
            left -= killed_until_done(home, name, place / name / str(number), f"{uri}/{name}/{number}", killer, left)
            tell(job=name, ended=read_record(place / name / str(number) / "out").digest)


def killed_until_done(home: Path, name: str, place: Path, kept: str, killer: Killer, most: int) -> int:
    """One run, killed at most so many times; returns how many."""
    place.mkdir()
    for kills in range(most + 1):
        seconds, point, times = killer.next() if kills < most else (0.0, "", 0)
        began = last_commit(kept)
        killed, code = wait(attempt(home, name, place, kept, before=partial(kill_at, point, times)), seconds)
        done = began + len((place / "steps").read_text())
        if not killed:
            assert (code, done) == (0, STEPS), (place / "log").read_text()
            return kills
        moment = f"{point}, {times}" if point else f"after {seconds:.2f} s"
        tell(job=name, moment=moment, began=began, done=done, lost=done - last_commit(kept))
    raise AssertionError("the last attempt is not killed")


def tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def wait(child: int, seconds: float) -> tuple[bool, int]:
    """Wait for a process, and kill it after so many seconds, if any; returns whether it was killed, and its code."""
    deadline = time.monotonic() + seconds
    while seconds and time.monotonic() < deadline:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.005)
    else:
        if seconds:
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status), os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
