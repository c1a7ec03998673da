"""The images where Kubernetes' *restricted* standard is enforced, on a root file system that is read-only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.backend import BACKEND, on_cluster
from tests.cluster.pods import core

pytestmark = on_cluster(900)
HELP = "python3 -m posttrain --help"
# What must not be written, and what must not be compiled again with every pod that starts.
FIXED = "! touch /opt/x 2>/dev/null && touch /tmp/x && test $(id -u) != 0"
WHOLE = "! python3 -m pip --version 2>/dev/null && ! command -v gcc"
NO_MODEL = "! python3 -c 'import torch' 2>/dev/null && python3 -c 'import kfp.kubernetes, pyarrow.parquet'"


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    name = f"posttrain-images-{int(time.time())}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    core().create_namespace({"metadata": {"name": name, "labels": labels}})
    yield name
    core().delete_namespace(name)


def pod(name: str, image: str, commands: str) -> dict[str, Any]:
    limits = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-ec", commands],
        "securityContext": limits,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "containers": [container],
    }
    return {"metadata": {"name": name}, "spec": spec}


def said(namespace: str, name: str, image: str, commands: str) -> str:
    """What a pod printed; it must succeed."""
    api = core()
    api.create_namespaced_pod(namespace, pod(name, image, commands))
    phase, until = "", time.monotonic() + 600
    while phase not in ("Succeeded", "Failed") and time.monotonic() < until:
        time.sleep(1)
        phase = api.read_namespaced_pod(name, namespace).status.phase
    text = str(api.read_namespaced_pod_log(name, namespace))
    assert phase == "Succeeded", text
    return text


def test_the_control_image_has_no_torch_and_writes_nothing(namespace: str) -> None:
    assert BACKEND is not None
    if BACKEND.control == BACKEND.image:
        pytest.skip("POSTTRAIN_CLUSTER_CONTROL names no image of its own")
    commands = " && ".join((HELP, FIXED, WHOLE, NO_MODEL))
    assert "Usage:" in said(namespace, "control", BACKEND.control, commands)


def test_the_train_image_starts_the_same_way(namespace: str) -> None:
    assert BACKEND is not None
    commands = " && ".join((HELP, FIXED, "python3 -c 'import torch, trl; print(torch.__version__)'"))
    assert "Usage:" in said(namespace, "train", BACKEND.image, commands)
