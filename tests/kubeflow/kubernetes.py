"""A server that answers as Kubernetes does where a stage on several nodes asks it, and can be made to fail.

Time passes with each look at the job: then the next thing of `story` happens. The real one is in tests/cluster.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from posttrain.kubeflow.cluster import Cluster
from posttrain.training.trainjob import CONTAINER
from tests.kubeflow.server import Handler, Kept, listening

NAMESPACE = "team-a"
_OF_JOB = "jobset.sigs.k8s.io/jobset-name"


class Held(Kept):
    """What the server holds, and what happens to it by and by."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, list[str]] = {}  # pod, or pod and "/previous" → lines
        self.story: list[Callable[[Held], Any]] = []
        self.created: list[dict[str, Any]] = []

    def node(self, rank: int, name: str = "", tries: int = 0, **state: Any) -> None:
        """Put or change a node's pod; `code` ends its container, `last` is how the one before ended."""
        found = {"state": {"running": {}}} if "code" not in state else {"state": _terminated(state["code"])}
        found |= {"lastState": _terminated(state["last"])} if "last" in state else {}
        phase = {None: "Running", 0: "Succeeded"}.get(state.get("code"), "Failed")
        labels = {"batch.kubernetes.io/job-completion-index": str(rank), _OF_JOB: next(iter(self.jobs), "")}
        self.pods[name or f"node-{rank}"] = {
            "metadata": {"name": name or f"node-{rank}", "labels": labels},
            "spec": {"containers": []},
            "status": {
                "phase": phase,
                "containerStatuses": [{"name": CONTAINER, "restartCount": tries, **_REQUIRED, **found}],
            },
        }

    def ends(self, kind: str, reason: str = "", message: str = "") -> None:
        """The job gets a condition."""
        for job in self.jobs.values():
            said = {"type": kind, "status": "True", "reason": reason, "message": message}
            job["status"] = {"conditions": [said]}


_REQUIRED = {"image": "i", "imageID": "i", "ready": False}


def _terminated(code: int) -> dict[str, Any]:
    how = "OOMKilled" if code == 137 else "Error"
    return {"terminated": {"exitCode": code, "reason": how, "finishedAt": "2026-01-01T00:00:00Z"}}


class Api(Handler):
    """One request."""

    kept: Held

    def _do(self, body: bytes) -> tuple[int, Any]:
        url, held = urlsplit(self.path), self.kept
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        parts = url.path.split(f"/namespaces/{NAMESPACE}/")[1].split("/")
        if parts[0] == "trainjobs":
            return self._jobs(parts[1:], body)
        if len(parts) == 1:
            wanted = dict(pair.split("=") for pair in query["labelSelector"].split(","))
            return 200, {
                "items": [pod for pod in held.pods.values() if wanted.items() <= pod["metadata"]["labels"].items()]
            }
        if parts[1] not in held.pods:
            return 404, {"message": f"{parts[1]} not found"}
        if parts[2:] == ["log"]:
            lines = held.logs.get(parts[1] + ("/previous" if query.get("previous", "").lower() == "true" else ""))
            return (400, {"message": "waiting to start"}) if lines is None else (200, "\n".join(lines))
        return 200, held.pods[parts[1]]

    def _jobs(self, rest: list[str], body: bytes) -> tuple[int, Any]:
        held = self.kept
        if self.command == "POST":
            made = json.loads(body)
            if made["metadata"]["name"] in held.jobs:
                return 409, {"message": "already exists"}
            held.jobs[made["metadata"]["name"]] = made
            held.created.append(made)
            return 201, made
        found = held.jobs.get(rest[0])
        if found is None:
            return 404, {"message": f"{rest[0]} not found"}
        if self.command == "DELETE":
            del held.jobs[rest[0]]
        elif self.command == "PATCH":
            found["metadata"] |= json.loads(body)["metadata"]
        elif held.story:
            held.story.pop(0)(held)
            found = held.jobs.get(rest[0])
        return (200, found) if found else (404, {"message": "gone"})


@contextmanager
def kubernetes() -> Iterator[tuple[Cluster, Held]]:
    """A namespace on loopback, as a pod in it sees it, and what it holds."""
    from kubernetes import client

    held = Held()
    with listening(Api, held) as url:
        configuration = client.Configuration(host=url)
        configuration.retries = False
        yield Cluster(client.ApiClient(configuration), NAMESPACE, patience=20), held
