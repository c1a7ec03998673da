"""The chart on a real cluster and backend: installed, tested, upgraded without and with a change, failed, removed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.kubeflow.connection import Connection, Server
from posttrain.kubeflow.recurring import mark, marked
from tests.chart.helm import CHART, helm, only
from tests.cluster.backend import BACKEND, BUCKET, NAMESPACE, SCHEDULING, TINY, on_cluster
from tests.cluster.conftest import World

RELEASE = "posttrain-test"
pytestmark = on_cluster(3600, pytest.mark.xdist_group("chart"))
KINDS = "configmap,serviceaccount,role,rolebinding,networkpolicy,job,pod,resourcequota,limitrange,persistentvolumeclaim"


@pytest.fixture(scope="module")
def server() -> Server:
    assert BACKEND is not None
    return Server(Connection(endpoint=BACKEND.host))


@pytest.fixture(scope="module")
def values(world: World, network: dict[str, Any]) -> dict[str, Any]:
    assert BACKEND is not None
    given = {role: world.uris[role] for role in ("base", "problems", "held_out", "demos")}
    tiny = {room: TINY[room] for room in ("sft", "rollout", "evaluate")}
    return {
        "images": BACKEND.images(),
        "networkPolicy": network,
        "pipelines": only(tiny={"recipe": "sft-replay", "settings": tiny}),
        "defaults": {"schedule_gpu_count": "0", "registry": f"s3://{BUCKET}/registry-{int(time.time())}"},
        "scheduling": SCHEDULING,
        "schedules": {"yearly": {"pipeline": "tiny", "cron": "0 0 2 1 1 *", "parameters": given}},
        "test": {"pipeline": "tiny", "parameters": given},
    }


@pytest.fixture(scope="module")
def installed(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The release, and its values' file."""
    file = tmp_path_factory.mktemp("values") / "values.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    done = helm("install", RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(file), "--wait", "--timeout", "10m")
    assert done.returncode == 0, done.stderr
    yield file
    helm("uninstall", RELEASE, "-n", NAMESPACE, "--wait", "--timeout", "5m")


def objects() -> dict[str, int]:
    """The release's objects in Kubernetes, with their generations where they have one."""
    command = ["kubectl", "get", KINDS, "-n", NAMESPACE, "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "json"]
    items = json.loads(subprocess.check_output(command))["items"]
    return {f"{each['kind']}/{each['metadata']['name']}": each["metadata"].get("generation", 0) for each in items}


def deployed(server: Server) -> dict[str, list[str]]:
    """What the release has on Kubeflow Pipelines, by id."""
    pipelines = marked(server.pipelines(), mark(RELEASE))
    recurring = marked(server.recurring_runs(), mark(RELEASE))
    return {
        "versions": [each.pipeline_version_id for p in pipelines for each in server.versions(p.pipeline_id)],
        "recurring": [each.recurring_run_id for each in recurring],
    }


def upgraded(file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return helm("upgrade", RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(file), "--timeout", "10m", *more)


def test_an_install_brings_pipelines_and_recurring_runs(installed: Path, server: Server) -> None:
    there = deployed(server)
    assert (len(there["versions"]), len(there["recurring"])) == (1, 1)
    kinds = {name.partition("/")[0] for name in objects()}
    assert kinds == {"ConfigMap", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy"}


def test_the_release_proves_itself_by_a_run_to_the_end(installed: Path) -> None:
    done = helm("test", RELEASE, "-n", NAMESPACE, "--timeout", "30m")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_upgrade_without_a_change_changes_nothing(installed: Path, server: Server) -> None:
    before = objects(), deployed(server)
    done = upgraded(installed)
    assert done.returncode == 0, done.stderr
    assert (objects(), deployed(server)) == before


def test_an_upgrade_changes_what_changed(installed: Path, server: Server) -> None:
    before = deployed(server)
    done = upgraded(installed, "--set", "schedules.yearly.cron=0 30 2 1 1 *")
    assert done.returncode == 0, done.stderr
    after = deployed(server)
    assert after["versions"] == before["versions"]
    assert len(after["recurring"]) == 1 and after["recurring"] != before["recurring"]


def test_a_failed_upgrade_leaves_what_worked(installed: Path, server: Server) -> None:
    before = deployed(server)
    done = upgraded(installed, "--set", "pipelines.tiny.recipe=sft-repaly")
    assert done.returncode != 0
    assert deployed(server) == before
    # The hook that failed stays for its log until the next one, or for a day.
    assert upgraded(installed).returncode == 0
    assert deployed(server)["versions"] == before["versions"]


def test_an_uninstall_leaves_nothing(installed: Path, server: Server) -> None:
    done = helm("uninstall", RELEASE, "-n", NAMESPACE, "--wait", "--timeout", "5m")
    assert done.returncode == 0, done.stderr
    time.sleep(5)
    assert (objects(), deployed(server)) == ({}, {"versions": [], "recurring": []})
