"""What a run's pods said last, asked of Kubernetes from inside a pod."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TAIL = 60  # lines of a log
_TIMEOUT = 20  # seconds of one request
# As `posttrain.components.task.answering` writes an error, and as Python does.
_ERROR = re.compile(r"^(?:\[(?P<stage>[\w.-]+)\] )?(?P<error>[A-Z]\w*(?:Error|Exception|Preempted): .+)$")


def last_words(run: str) -> str:
    """The error of the run's pod that failed last, in one line; empty if none did, or nobody may look.

    A courtesy: outside a cluster, or without the right to read pods and logs, there is none.
    """
    if not (_ACCOUNT / "token").is_file():
        return ""
    try:
        from kubernetes import client, config

        config.load_incluster_config()
        return _last_words(client.CoreV1Api(), (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip(), run)
    except Exception as error:  # whatever it is, it must not hide what the run itself came to
        return f"(its pods cannot be read: {type(error).__name__})"


def _last_words(api: Any, namespace: str, run: str) -> str:
    selector = f"pipeline/runid={run},pipelines.kubeflow.org/v2_component=true"
    pods = api.list_namespaced_pod(namespace, label_selector=selector, _request_timeout=_TIMEOUT).items
    failed = [pod for pod in pods if pod.status.phase == "Failed"]
    for pod in sorted(failed, key=lambda pod: str(pod.status.start_time), reverse=True):
        # Preloaded, a log that happens to be JSON would come as Python's repr of it.
        log = api.read_namespaced_pod_log(
            pod.metadata.name,
            namespace,
            container="main",
            tail_lines=_TAIL,
            _preload_content=False,
            _request_timeout=_TIMEOUT,
        )
        if found := error_in(log.data.decode(errors="replace")):
            return found
    return f"{len(failed)} pods failed without a word" if failed else ""


def error_in(log: str) -> str:
    """The last line of a log that is an error, as `stage: error`."""
    for line in reversed(log.splitlines()):
        if match := _ERROR.match(line.strip()):
            return f"{match['stage']}: {match['error']}" if match["stage"] else match["error"]
    return ""
