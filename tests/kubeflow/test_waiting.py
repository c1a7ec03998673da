"""Why tasks wait: read from a Workflow, said once, and only of those that have waited for long."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.kubeflow import waiting
from posttrain.kubeflow.waiting import Waiting, in_kubernetes, reasons

QUOTA = 'pods "x" is forbidden: exceeded quota: team, requested: requests.nvidia.com/gpu=4, used: 8, limited: 8'


UNSCHEDULABLE = "Unschedulable: 0/3 nodes are available: 3 Insufficient cpu."


def node(name: str, phase: str, message: str = "", above: str = "root", kind: str = "Pod") -> dict[str, Any]:
    return {"displayName": name, "type": kind, "phase": phase, "message": message, "boundaryID": above}


WORKFLOW = {
    "status": {
        "nodes": {
            "root": node("root", "Running", kind="DAG", above=""),
            "sft": node("sft", "Running", kind="DAG"),
            "1": node("executor", "Pending", QUOTA + "\n", above="sft"),
            "2": node("rl-driver", "Pending", UNSCHEDULABLE),
            "3": node("base-driver", "Running", "a pod's own word"),
            "4": node("report-driver", "Pending"),
        }
    }
}


def test_each_task_that_waits_has_its_reason_in_a_line() -> None:
    assert reasons(WORKFLOW) == {
        "sft": f"{QUOTA}; it starts when others end; or ask for less (schedule_gpu_count), or have the quota raised",
        "rl-driver": f"{UNSCHEDULABLE}; ask for what a node has: schedule_gpu_type, _gpu_count, _node_selector, "
        "_tolerations, _affinity",
    }
    assert reasons({"metadata": {}}) == {}


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(waiting, "in_kubernetes", lambda *_: reasons(WORKFLOW))
    return []


def test_a_reason_is_said_once(lines: list[str]) -> None:
    watched = Waiting("id", "team", lines.append, patient=0)
    for _ in range(3):
        watched.look(pending=True)
    assert sorted(lines)[1].startswith(f"sft waits: {QUOTA}; ")
    assert len(lines) == 2


def test_another_reason_of_a_task_is_said_and_other_numbers_are_not(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    why = iter(["PodInitializing", "Unschedulable: 0/3 nodes", "Unschedulable: 0/4 nodes", "PodInitializing"])
    monkeypatch.setattr(waiting, "in_kubernetes", lambda *_: {"sft": next(why)})
    watched = Waiting("id", "team", lines.append, patient=0)
    for _ in range(4):
        watched.look(pending=True)
    assert lines == ["sft waits: PodInitializing", "sft waits: Unschedulable: 0/3 nodes"]


def test_what_goes_on_is_not_spoken_of(lines: list[str]) -> None:
    Waiting("id", "team", lines.append, patient=0).look(pending=False)
    Waiting("id", "team", lines.append, patient=60).look(pending=True)
    assert lines == []


def test_a_run_whose_workflow_is_gone_is_said_to_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubernetes.config.load_config", lambda: None)
    asked = "kubernetes.client.CustomObjectsApi.list_namespaced_custom_object"
    monkeypatch.setattr(asked, lambda *_, **__: {"items": []})
    assert "start the run again" in in_kubernetes("id", "team")["the run"]
    monkeypatch.setattr(asked, lambda *_, **__: {"items": [WORKFLOW]})
    assert set(in_kubernetes("id", "team")) == {"sft", "rl-driver"}


def test_where_kubernetes_cannot_be_asked_it_says_who_can(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "in_kubernetes", lambda *_: {})
    Waiting("id", "", lines.append, patient=0).look(pending=True)
    assert lines == [
        "a task waits: for its pod; `kubectl get workflows -n kubeflow -l pipeline/runid=id -o yaml` says why"
    ]
