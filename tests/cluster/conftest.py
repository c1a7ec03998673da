"""What several rooms of the cluster's tests begin with."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from examples.recipes.world import inputs
from tests.cluster.backend import BACKEND, NAMESPACE
from tests.cluster.objects import apply, kubectl, listed


@dataclass(frozen=True)
class World:
    """A small world here, and each of its inputs as a URI in the bucket."""

    folder: Path
    uris: dict[str, str]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Built and uploaded once: it takes minutes on a busy machine."""
    assert BACKEND is not None
    folder = tmp_path_factory.mktemp("cluster") / "world"
    local = inputs(folder)
    prefix = BACKEND.upload(folder, f"world-{int(time.time())}")
    return World(folder, {role: path.replace(str(folder), prefix) for role, path in local.items()})


@pytest.fixture(scope="session")
def network() -> dict[str, Any]:
    """The chart's `networkPolicy` for this cluster: where its services are, should it enforce policies."""
    assert BACKEND is not None
    s3 = urlsplit(BACKEND.s3)
    return {
        "dns": {"cidrs": [f"{_nameserver(BACKEND.control)}/32"]},
        "storage": {"cidrs": [f"{s3.hostname}/32"], "ports": [s3.port or 443]},
        "extraEgress": _outside(),
    }


def _nameserver(image: str) -> str:
    """Whom pods ask for names, as kubelet tells them."""
    name = f"posttrain-asks-{int(time.time())}"
    container = {"name": "main", "image": image, "command": ["cat", "/etc/resolv.conf"]}
    spec = {"containers": [container], "restartPolicy": "Never"}
    meta = {"name": name, "namespace": NAMESPACE}
    apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    try:
        kubectl("wait", "-n", NAMESPACE, "--for=jsonpath={.status.phase}=Succeeded", f"pod/{name}", "--timeout=300s")
        lines = kubectl("logs", "-n", NAMESPACE, name).splitlines()
    finally:
        kubectl("delete", "pod", "-n", NAMESPACE, name, "--wait=false")
    return next(line.split()[1] for line in lines if line.startswith("nameserver"))


def _outside() -> list[dict[str, Any]]:
    """Ways to those of Kubeflow's services that are no pods, but addresses outside of its namespace."""
    return [
        {
            "to": [{"ipBlock": {"cidr": f"{address}/32"}} for address in endpoint["addresses"]],
            "ports": [{"port": port["port"], "protocol": "TCP"} for port in each["ports"]],
        }
        for each in listed("endpointslices", NAMESPACE)
        if each["metadata"]["name"].startswith("metadata-grpc")
        for endpoint in each["endpoints"] or []
        if "targetRef" not in endpoint
    ]
