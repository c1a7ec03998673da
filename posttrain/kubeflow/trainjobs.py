"""A TrainJob run to its end by the pod that started it: adopted or created, watched, told of, and removed.

A job belongs to its pod: it is removed when it has ended and when this process is told to end or fails; where it is
killed, Kubernetes removes the job with the pod, or the next try of the task finds it by its name and goes on with it.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from posttrain.errors import FENCED, RETRYABLE, USER_ERROR, JobError, PosttrainError
from posttrain.kubeflow.cluster import Cluster
from posttrain.kubeflow.relay import End, Relay, Wait, ended, rank_of
from posttrain.progress import Progress

_POLL = 2.0  # seconds
_OF_JOB = "jobset.sigs.k8s.io/jobset-name"
_KILLED = 128  # and more: by a signal
_FATAL = (USER_ERROR, FENCED)  # another try would end the same way, or must not be
_LAST_WORD = 1.0  # seconds: KFP's launcher ends with the signal, and its end ends the container


def run_job(cluster: Cluster, manifest: Mapping[str, Any], progress: Progress) -> None:
    """Run a TrainJob to its end; the first node's log is passed on to stdout meanwhile.

    Raises:
        JobError: it failed, or was removed by somebody; `exit_code` is that of the node which failed first.
        Refused: Kubernetes does not take the job, or does not let this pod see it.
        ServerError: Kubernetes does not answer.
        SystemExit: this process was told to end.
    """
    name, patience = manifest["metadata"]["name"], None
    with _told_to_end():
        try:
            _start(cluster, manifest, progress)
            _watch(cluster, name, progress)
        except SystemExit:
            patience = _LAST_WORD
            raise
        finally:
            _remove(cluster, name, progress, patience)


def _remove(cluster: Cluster, name: str, progress: Progress, patience: float | None) -> None:
    try:
        cluster.delete(name, patience)
    except PosttrainError as error:  # what ended the job is the news, and Kubernetes removes it with this pod
        progress.say(f"TrainJob {name} was not removed: {error}")


def _start(cluster: Cluster, manifest: Mapping[str, Any], progress: Progress) -> None:
    """Create the job, or go on with the one that an earlier try of this task left running."""
    name, owners = manifest["metadata"]["name"], manifest["metadata"].get("ownerReferences", [])
    nodes = manifest["spec"]["trainer"]["numNodes"]
    told = False
    while True:
        if cluster.create(manifest):
            progress.say(f"TrainJob {name}: {nodes} nodes")
            return
        found = cluster.job(name)
        if found is None:
            continue
        if "deletionTimestamp" not in found["metadata"] and not _condition(found, "Failed"):
            if found["metadata"].get("ownerReferences", []) != owners:
                progress.say(f"TrainJob {name}: going on with that of an earlier try")
                cluster.own(name, owners)
            return
        if not told:
            progress.say(f"TrainJob {name}: waiting until that of an earlier try is gone")
            told = True
        cluster.delete(name)
        time.sleep(_POLL)


def _watch(cluster: Cluster, name: str, progress: Progress) -> None:
    """Wait for the job's end."""
    relay, waits = Relay(cluster), Wait(progress)
    ends: dict[tuple[str, int], End] = {}
    while True:
        job, pods = cluster.job(name), cluster.pods({_OF_JOB: name})
        relay.pass_on([pod for pod in pods if rank_of(pod) == 0])
        waits.tell(pods)
        for end in (each for pod in pods for each in ended(pod)):
            if (end.pod, end.attempt) not in ends:
                progress.say(str(end))
            ends[end.pod, end.attempt] = end
        # The first node ends once the artifact is whole; what becomes of the others then matters to nobody.
        if (job and _condition(job, "Complete")) or any(rank_of(pod) == 0 and _succeeded(pod) for pod in pods):
            return
        fatal = next((end for end in ends.values() if end.code in _FATAL), None)
        failed = job and _condition(job, "Failed")
        if job is None:
            raise JobError(f"TrainJob {name} was removed by somebody; try again")
        if fatal or failed:
            relay.show_others(pods)
            raise _failure(name, failed, list(ends.values()), fatal, relay)
        time.sleep(_POLL)


def _failure(name: str, failed: Any, ends: list[End], fatal: End | None, relay: Relay) -> JobError:
    if fatal:
        return JobError(f"TrainJob {name}: {fatal}: {relay.last_line(fatal)}", fatal.code)
    reason = " ".join(f"{failed.get('reason', '')}: {failed.get('message', '')}".split())
    if failed.get("reason") == "DeadlineExceeded":
        return JobError(f"TrainJob {name}: {reason}; raise scheduling.timeout_hours", USER_ERROR)
    if not ends:
        return JobError(f"TrainJob {name}: {reason}")
    # A node that is killed breaks the others off, which then end with errors of their own.
    first = min(ends, key=lambda end: (-end.attempt, end.code < _KILLED, end.at, end.rank))
    return JobError(f"TrainJob {name}: {first}: {relay.last_line(first)}", RETRYABLE if first.code != 1 else 1)


def _condition(job: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    conditions = job.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind and each["status"] == "True"), None)


def _succeeded(pod: Mapping[str, Any]) -> bool:
    return bool(pod["status"].get("phase") == "Succeeded")


@contextmanager
def _told_to_end() -> Iterator[None]:
    """Being told to end is an exception, once; then there is no time to be told again."""

    def leave(number: int, frame: Any) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        sys.exit(_KILLED + number)

    in_main = threading.current_thread() is threading.main_thread()  # others may not set any
    before = [(number, signal.signal(number, leave)) for number in (signal.SIGTERM, signal.SIGINT) if in_main]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
