"""What the pods of a TrainJob say, in the log of the pod that started it: the first node's lines, waits, ends."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.kubeflow.cluster import Cluster
from posttrain.progress import Progress
from posttrain.training.trainjob import CONTAINER

_INDEX = "batch.kubernetes.io/job-completion-index"
_ATTEMPT = "jobset.sigs.k8s.io/restart-attempt"
_OVERLAP = 5  # seconds that are asked for again: clocks differ, and Kubernetes counts whole ones
_TAIL = 20  # lines of another node, where the job failed
Pod = Mapping[str, Any]


@dataclass(frozen=True)
class End:
    """How a container of a node ended."""

    pod: str
    rank: int
    attempt: int  # of the job: how often it, or this container in its place, was started again before
    code: int
    reason: str
    at: str
    replaced: bool  # another runs in the container's place

    def __str__(self) -> str:
        return f"node {self.rank} ended with {self.code}" + (f" ({self.reason})" if self.reason != "Error" else "")


def rank_of(pod: Pod) -> int:
    """The node's number among its like."""
    return int(pod["metadata"]["labels"].get(_INDEX, 0))


def ended(pod: Pod) -> Iterator[End]:
    """How a pod's container ended badly, now or the time before it was started again."""
    status = _container(pod)
    attempt = int(pod["metadata"]["labels"].get(_ATTEMPT, 0)) + status.get("restartCount", 0)
    for state in ("lastState", "state"):
        found = status.get(state, {}).get("terminated")
        if found and found["exitCode"]:
            yield End(
                pod=pod["metadata"]["name"],
                rank=rank_of(pod),
                attempt=attempt - (state == "lastState"),
                code=found["exitCode"],
                reason=found.get("reason", "Error"),
                at=found.get("finishedAt", ""),
                replaced=state == "lastState" and "running" in status["state"],
            )


def waiting(pod: Pod) -> str:
    """Why a pod's container does not run yet; empty if it does, or is about to."""
    conditions = pod["status"].get("conditions", [])
    scheduled: dict[str, Any] = next((each for each in conditions if each["type"] == "PodScheduled"), {})
    if scheduled.get("status") == "False":
        return " ".join(scheduled.get("message", "").split())
    found = _container(pod).get("state", {}).get("waiting", {})
    if found.get("reason", "ContainerCreating") in ("ContainerCreating", "PodInitializing"):
        return ""
    return " ".join(f"{found['reason']}: {found.get('message', '')}".split())


def _container(pod: Pod) -> Mapping[str, Any]:
    statuses = pod["status"].get("containerStatuses", [])
    return next((each for each in statuses if each["name"] == CONTAINER), {})


class Wait:
    """Says once what each node waits for."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._told: dict[int, str] = {}

    def tell(self, pods: Sequence[Pod]) -> None:
        """Of those that wait for something else than the last time."""
        for pod in pods:
            if (why := waiting(pod)) and self._told.get(rank_of(pod)) != why:
                self._told[rank_of(pod)] = why
                self._progress.say(f"node {rank_of(pod)} waits: {why}")


class Relay:
    """Passes logs on to stdout, each line once, whatever is started again."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._seen: dict[str, tuple[float, str]] = {}  # pod → when it was asked last, the time of its last line
        self._tries: dict[str, int] = {}

    def pass_on(self, pods: Sequence[Pod], prefix: str = "") -> None:
        """What these pods wrote since the last time."""
        for pod in sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", ""))):
            name, tries = pod["metadata"]["name"], _container(pod).get("restartCount", 0)
            if self._tries.setdefault(name, tries) != tries:
                self._tries[name] = tries
                self._print(name, prefix, previous=True)
            self._print(name, prefix)

    def show_others(self, pods: Sequence[Pod]) -> None:
        """The last lines of the nodes that are not passed on, for whoever looks why the job failed."""
        for pod in pods:
            if rank_of(pod):
                for line in self._lines(pod["metadata"]["name"])[-_TAIL:]:
                    print(f"[node {rank_of(pod)}] {line.partition(' ')[2]}", flush=True)

    def last_line(self, end: End) -> str:
        """What a node said last before it ended."""
        lines = self._lines(end.pod, end.replaced)
        said = [line.partition(" ")[2].strip() for line in lines]
        return next((line.removeprefix("error: ") for line in reversed(said) if line), "without a word")

    def _lines(self, pod: str, previous: bool = False) -> list[str]:
        return self._cluster.log(pod, CONTAINER, previous=previous)

    def _print(self, pod: str, prefix: str, previous: bool = False) -> None:
        asked, last = self._seen.get(pod, (-math.inf, ""))
        now = time.monotonic()
        since = None if math.isinf(asked) or previous else math.ceil(now - asked) + _OVERLAP
        for line in self._cluster.log(pod, CONTAINER, since, previous):
            stamp, _, said = line.partition(" ")
            if (at := _sortable(stamp)) > last:
                last = at
                print(f"{prefix}{said}", flush=True)
        self._seen[pod] = now, last


def _sortable(stamp: str) -> str:
    """RFC 3339 leaves zeros at the end away: 05.1Z is after 05.09Z, and 05Z before both."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{whole}.{fraction:0<9}"
