"""Pods of a run, and how they are made to end."""

from __future__ import annotations

from typing import Any

# Every process of the container but Argo's, which is the first, and this one.
_KILL = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) not in (1, os.getpid()) and "python" in os.path.basename(os.readlink(f"/proc/{pid}/exe")):
        os.kill(int(pid), signal.SIGKILL)
"""


def core() -> Any:
    """Kubernetes' API, by KUBECONFIG."""
    from kubernetes import client, config

    config.load_kube_config()
    return client.CoreV1Api()


def working(run: str, namespace: str) -> list[Any]:
    """The pods of a run in which a stage is at work."""
    selector = f"pipeline/runid={run},pipelines.kubeflow.org/v2_component=true"
    pods = core().list_namespaced_pod(namespace, label_selector=selector).items
    return [pod for pod in pods if pod.status.phase == "Running" and pod.metadata.deletion_timestamp is None]


def kill(pod: Any) -> None:
    """SIGKILL to the stage, as where its memory is spent."""
    from kubernetes.stream import stream

    api = core()
    stream(
        api.connect_get_namespaced_pod_exec,
        pod.metadata.name,
        pod.metadata.namespace,
        container="main",
        command=["python3", "-c", _KILL],
        stderr=True,
        stdout=True,
        stdin=False,
        tty=False,
    )


def delete(pod: Any) -> None:
    """Delete the pod, with its grace period, as where its node is drained."""
    core().delete_namespaced_pod(pod.metadata.name, pod.metadata.namespace)


def delete_at_once(pod: Any) -> None:
    """Delete the pod without a word to it, as where its node is lost."""
    core().delete_namespaced_pod(pod.metadata.name, pod.metadata.namespace, grace_period_seconds=0)
