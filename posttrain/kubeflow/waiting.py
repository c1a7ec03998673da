"""Why tasks of a run do not start, in Kubernetes' own words.

Of a pod that fits on no node, or that a quota refuses, Kubeflow's API says only that its task is pending. The reason is
in the run's Workflow; who may read that there is told it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

_PATIENT = 60.0  # seconds for which tasks may wait without a word
_TIMEOUT = 20  # seconds of one request
# What Kubernetes says → what to do about it.
_REMEDIES = {
    "Unschedulable": "ask for what a node has: schedule_gpu_type, _gpu_count, _node_selector, _tolerations, _affinity",
    "exceeded quota": "it starts when others end; or ask for less (schedule_gpu_count), or have the quota raised",
    "CreateContainerConfigError": "make what is missing, or name another by schedule_secret",
    "ImagePull": "check the image's name (schedule_…_image) and the registry's credentials (scheduling.pull_secrets)",
}
_DEFAULT = "kubeflow"  # where a single-user Kubeflow runs everything


class Waiting:
    """Says of each task that waits why it does: once for each kind of reason, whose numbers change all the time.

    Args:
        namespace: of the run; empty = a single-user Kubeflow's.
        patient: seconds for which tasks may wait before anything is said, and between two looks.
    """

    def __init__(self, run_id: str, namespace: str, say: Callable[[str], None], patient: float = _PATIENT) -> None:
        self._run, self._namespace, self._say, self._patient = run_id, namespace or _DEFAULT, say, patient
        self._since, self._told = time.monotonic(), set[tuple[str, str]]()

    def look(self, pending: bool) -> None:
        """Look, if something has been pending for long enough."""
        now = time.monotonic()
        if not pending:
            self._since = now
        elif now - self._since >= self._patient:
            self._since = now
            where = f"kubectl get workflows -n {self._namespace} -l pipeline/runid={self._run} -o yaml"
            found = in_kubernetes(self._run, self._namespace) or {"a task": f"for its pod; `{where}` says why"}
            for task, why in found.items():
                kind = task, why.partition(":")[0]
                if kind not in self._told:
                    self._told.add(kind)
                    self._say(f"{task} waits: {why}")


def in_kubernetes(run_id: str, namespace: str) -> dict[str, str]:
    """Task → why it waits; nothing where Kubernetes cannot be asked."""
    from kubernetes import client, config
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    where = ("argoproj.io", "v1alpha1", namespace, "workflows")
    try:
        config.load_config()
        api = client.CustomObjectsApi()
        asked = {"label_selector": f"pipeline/runid={run_id}", "_request_timeout": _TIMEOUT}
        found = api.list_namespaced_custom_object(*where, **asked)["items"]
    except (config.ConfigException, ApiException, HTTPError, OSError):
        return {}
    if not found:
        # Seen: a busy server was told of a Workflow before it had written the run down, and removed it as nobody's.
        return {"the run": f"no Workflow of it is in namespace {namespace}; if Kubeflow lost it, start the run again"}
    return {task: why for workflow in found for task, why in reasons(workflow).items()}


def reasons(workflow: Mapping[str, Any]) -> dict[str, str]:
    """Of a Workflow: task → why its pod is not there, or not on a node."""
    nodes = workflow.get("status", {}).get("nodes", {})
    pending = [each for each in nodes.values() if (each["type"], each["phase"]) == ("Pod", "Pending")]
    return {_task(each, nodes): _with_remedy(each["message"]) for each in pending if each.get("message")}


def _with_remedy(why: str) -> str:
    return "; ".join([" ".join(why.split()), *(remedy for said, remedy in _REMEDIES.items() if said in why)])


def _task(node: Mapping[str, Any], nodes: Mapping[str, Any]) -> str:
    """KFP calls every task's pod the same, within a node of the task's name."""
    above = nodes.get(node.get("boundaryID", ""), node)
    return str((above if node["displayName"] == "executor" else node)["displayName"])
