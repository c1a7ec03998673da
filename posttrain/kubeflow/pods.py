"""What a run's pods said last, asked of Kubernetes from inside one of them."""

from __future__ import annotations

import os
import re

from posttrain.errors import PosttrainError
from posttrain.kubeflow.cluster import Cluster, here

_PATIENCE = 20.0  # seconds
# As `posttrain.components.task.answering` writes an error, and as Python does.
_ERROR = re.compile(r"^(?:\[(?P<stage>[\w.-]+)\] )?(?P<error>[A-Z]\w*(?:Error|Exception|Preempted): .+)$")


def last_words(run: str) -> str:
    """The error of the run's pod that failed last, in one line; empty if none did.

    A courtesy: outside a cluster, or without the right to read pods and logs, there is none.
    """
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        return ""
    try:
        return _last_words(here(_PATIENCE), run)
    except PosttrainError as error:  # it must not hide what the run itself came to
        return f"(its pods cannot be read: {error})"


def _last_words(cluster: Cluster, run: str) -> str:
    pods = cluster.pods({"pipeline/runid": run, "pipelines.kubeflow.org/v2_component": "true"})
    failed = [pod for pod in pods if pod["status"].get("phase") == "Failed"]
    for pod in sorted(failed, key=lambda pod: str(pod["status"].get("startTime", "")), reverse=True):
        lines = cluster.log(pod["metadata"]["name"], "main")
        if found := error_in([line.partition(" ")[2] for line in lines]):  # each begins with its time
            return found
    return f"{len(failed)} pods failed without a word" if failed else ""


def error_in(lines: list[str]) -> str:
    """The last line that is an error, as `stage: error`."""
    for line in reversed(lines):
        if match := _ERROR.match(line.strip()):
            return f"{match['stage']}: {match['error']}" if match["stage"] else match["error"]
    return ""
