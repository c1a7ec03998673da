"""One training stage in many processes: PyTorch's elastic agent (what torchrun is) starts, watches and ends them.

`execute` has read settings, parents and contracts once; each process then runs the stage's own work, and Accelerate
inside TRL makes them one run. The first process writes the artifact and hands its `Work` back as a file. Whatever
ends one process ends all; what is raised here is the first error, as if it had happened in this process.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel

from posttrain import errors
from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.record import read_record
from posttrain.errors import GroupError, PosttrainError
from posttrain.progress import Progress, Silence
from posttrain.settings import AnySettings, parse_settings
from posttrain.stage import Parents, Stage, Work, versions
from posttrain.training import handover, keeping
from posttrain.training.hardware import Nodes, global_batch, processes_here, processes_in_all, refuse_impossible
from posttrain.training.ranks import is_main, wait_for_main
from posttrain.training.settings import TrainSettings

COMMAND = ("-m", "posttrain", "rank")  # what Python runs in each process, and then the job's folder
_JOB, _WORK = "job.json", "work.json"
# The agent's word on processes that end; ours is one line.
_TALK = ("torch.distributed.elastic.multiprocessing.api", "torch.distributed.elastic.agent.server.api")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class Job(BaseModel):
    """What a process is told: settings and parents are validated and verified already."""

    stage: str
    settings: dict[str, Any]
    parents: dict[str, list[Path]]
    out: Path


class Failure(BaseModel):
    """What a process leaves behind that ends with an error."""

    rank: int
    time: float
    error: str
    message: str


def run_work(stage: Stage[AnySettings], settings: AnySettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Run a stage's work: a training stage in as many processes as its settings and this machine say.

    Raises:
        PosttrainError: the machine cannot do it, or the first error of any process.
    """
    if not isinstance(settings, TrainSettings):
        return stage.run(settings, parents, out, progress)
    refuse_impossible(settings)
    keeping.check_place(settings)
    size = processes_in_all(settings)
    grouped = size > 1
    work = _in_group(stage, settings, parents, out) if grouped else _kept(stage, settings, parents, out, progress)
    work.facts |= {"processes": size, "global_batch": global_batch(settings)}
    return work


def _kept(stage: Stage[Any], settings: TrainSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """The stage's work in this process, its training kept where the settings say."""
    with keeping.kept(stage, settings, parents) as run:
        work = stage.run(settings, parents, out, progress)
    if run:
        work.counts |= run.counts
        work.before = run.before
    return work


def _in_group(stage: Stage[Any], settings: TrainSettings, parents: Parents, out: Path) -> Work:
    paths: dict[str, list[Path]] = {}
    for role, artifact in parents.items():
        paths.setdefault(role, []).append(artifact.path.absolute())
    job = Job(stage=stage.name, settings=settings.model_dump(mode="json"), parents=paths, out=out.absolute())
    with tempfile.TemporaryDirectory(prefix="posttrain-group-") as name:
        folder = Path(name)
        (folder / _JOB).write_text(job.model_dump_json(), encoding="utf-8")
        start(processes_here(settings), [*COMMAND, name], folder, bool(settings.checkpoint_uri))
        report = folder / _WORK
        # The first process of all is on the first node.
        return handover.load(report.read_text(encoding="utf-8")) if report.is_file() else Work()


def start(processes: int, command: list[str], folder: Path, kept: bool = False) -> None:
    """Run a Python command in a group of processes on this node, to the end.

    Args:
        folder: where the processes leave their failures.
        kept: SIGTERM is handed on to the processes, which keep their run and end; the agent would give them 30 seconds.

    Raises:
        PosttrainError: the first error that a process left, or GroupError if one was killed.
        SystemExit: this process was told to end, and the group with it.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    nodes = Nodes.from_environment()
    alone = nodes.number == 1
    config = LaunchConfig(
        min_nodes=nodes.number,
        max_nodes=nodes.number,
        nproc_per_node=processes,
        run_id="posttrain",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint=f"{nodes.address}:{nodes.port}",
        rdzv_configs={} if alone else {"rank": nodes.rank},
        local_addr=nodes.address if alone else None,
        max_restarts=0,
        signals_to_handle=",".join(number.name for number in _SIGNALS[kept:]),
    )
    for name in _TALK:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with _signals_kept(), _handed_on(kept) as told:
        try:
            elastic_launch(config, sys.executable)(*command)
        except ChildFailedError as error:
            _raise_left(folder)
            if told:
                sys.exit(128 + signal.SIGTERM)
            _raise_killed(error)
        except SignalException as ended:
            sys.exit(128 + ended.sigval)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """The agent takes over signals to end its processes, and would leave it at that."""
    in_main = threading.current_thread() is threading.main_thread()  # others may not set any, and the agent does not
    before = [(number, signal.getsignal(number)) for number in _SIGNALS] if in_main else []
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def _handed_on(kept: bool) -> Iterator[list[int]]:
    """Hand SIGTERM on to the processes of the group; yields what came."""
    import psutil

    told: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        told.append(number)
        processes = psutil.Process().children()
        if not processes:  # there is nothing to keep yet
            sys.exit(128 + number)
        for process in processes:
            process.send_signal(number)

    if kept and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, hand_on)  # `_signals_kept` takes it back
    yield told


def _raise_killed(failed: Any) -> NoReturn:
    rank, failure = failed.get_first_failure()
    how = (
        f"killed by {signal.Signals(-failure.exitcode).name}"
        if failure.exitcode < 0
        else f"ended with {failure.exitcode}"
    )
    raise GroupError(f"process {rank} was {how}; its log is above, out of memory is the usual reason") from None


def _raise_left(folder: Path) -> None:
    """Raise the first error that a process left, if any did."""
    left = [Failure.model_validate_json(file.read_text(encoding="utf-8")) for file in folder.glob("failure-*.json")]
    if not left:
        return
    first = min(left, key=lambda failure: failure.time)
    kind = getattr(errors, first.error, None)
    if kind is None:
        raise RuntimeError(f"process {first.rank}: {first.error}: {first.message}") from None
    raise kind(first.message) from None


def take_part(folder: Path, load_stage: Callable[[str], Stage[Any]]) -> NoReturn:
    """What each process of a group does, to its end: the stage's work, and a file that says how it ended."""
    import torch

    _end_with_parent()
    if "OMP_NUM_THREADS" not in os.environ:  # as many threads as cores in each process would only wait for one another
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ["LOCAL_WORLD_SIZE"])))
    if torch.cuda.is_available():  # a stage may load a model before Accelerate does so
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    job = Job.model_validate_json((folder / _JOB).read_text(encoding="utf-8"))
    stage = load_stage(job.stage)
    try:
        settings = parse_settings(stage.settings, job.settings, job.stage)
        opened = {
            role: [Artifact(path, read_record(path, verify=False)) for path in paths]
            for role, paths in job.parents.items()
        }
        progress = (Progress if is_main() else Silence)(settings.name or stage.name)
        work = _kept(stage, settings, Parents(opened), job.out, progress)
        if is_main():
            work.versions = versions()
            (folder / _WORK).write_text(handover.dump(work), encoding="utf-8")
    except Exception as error:
        _leave(folder, error)
    if torch.distributed.is_initialized():
        wait_for_main()  # else the group would fall apart while it measures what it wrote
        torch.distributed.destroy_process_group()
    _end(0)  # threads that libraries leave running would abort a process, now and then, that ends by itself


def _end_with_parent() -> None:
    """Have Linux kill this process when its agent is killed, which can then end nobody itself."""
    set_parent_death_signal = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _leave(folder: Path, error: Exception) -> NoReturn:
    """End this process at once: the others may be waiting for it in the middle of a step."""
    rank = int(os.environ["RANK"])
    if not isinstance(error, PosttrainError):
        traceback.print_exc()
    failure = Failure(rank=rank, time=time.time(), error=type(error).__name__, message=str(error))
    partial = folder / f".failure-{rank}"
    partial.write_text(failure.model_dump_json(), encoding="utf-8")
    partial.rename(folder / f"failure-{rank}.json")
    _end(error.exit_code if isinstance(error, PosttrainError) else 1)


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
