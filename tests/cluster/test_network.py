"""The chart's network policy where one is enforced: what stages need flows, and all else is refused.

Where the cluster's network enforces none, tests/cluster/netpol.sh does on a node of our own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_server
from typing import Any
from urllib.parse import urlsplit

import pytest
from posttrain.components.catalogue import load_stages
from posttrain.pipelines.compiler import compile_recipe
from posttrain.pipelines.scheduling import Scheduling

from posttrain.recipes.load import parse_recipe
from tests.chart.helm import one, rendered
from tests.cluster.backend import BACKEND, NAMESPACE, SCHEDULING, on_cluster
from tests.cluster.objects import apply, kubectl, listed
from tests.made import jsonl, problem

pytestmark = on_cluster(1800, pytest.mark.xdist_group("network"))
HERE, THERE = (f"posttrain-network-{int(time.time())}-{name}" for name in ("here", "there"))
OURS = {"app.kubernetes.io/part-of": "posttrain"}
PORT = 8000
# Which of the given addresses answer: one connection each, at once.
ASK = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def answers(target):
    try:
        socket.create_connection(target, timeout=8).close()
    except OSError:
        return False
    return True
targets = [tuple(each) for each in json.loads(sys.argv[1])]
print(json.dumps(list(ThreadPoolExecutor(16).map(answers, targets))))
"""


def pod(name: str, namespace: str, labels: dict[str, str]) -> dict[str, Any]:
    """One that answers on PORT."""
    assert BACKEND is not None
    command = ["python3", "-m", "http.server", str(PORT), "--directory", "/tmp"]
    container = {"name": "main", "image": BACKEND.image, "command": command}
    spec = {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 0}
    meta = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def policy(namespace: str, network: dict[str, Any]) -> dict[str, Any]:
    """The chart's, told where this cluster's services are."""
    given = {"kubeflow": {"namespace": NAMESPACE}, "networkPolicy": network}
    made = one(rendered(given), "NetworkPolicy", "stages")
    made["metadata"] |= {"namespace": namespace, "name": "posttrain-network-test"}
    return made


def reached(namespace: str, name: str, targets: dict[str, tuple[str, int]]) -> set[str]:
    """Which of the targets a pod reaches."""
    told = kubectl("exec", "-n", namespace, name, "--", "python3", "-c", ASK, json.dumps(list(targets.values())))
    return {target for target, answers in zip(targets, json.loads(told), strict=True) if answers}


@pytest.fixture(scope="module")
def world(network: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Two namespaces with pods; the policy in one. Addresses by pod."""
    try:
        for name in (HERE, THERE):
            kubectl("create", "namespace", name)
        there = [pod("stranger", THERE, {}), pod("quarantined", THERE, {"quarantined": "yes"})]
        ours = [pod("stage", HERE, OURS), pod("peer", HERE, OURS), pod("neighbour", HERE, {})]
        apply(*there, *ours)
        for name in (HERE, THERE):
            kubectl("wait", "-n", name, "--for=condition=Ready", "pod", "--all", "--timeout=300s")
        apply(policy(HERE, network))
        nothing = {"podSelector": {"matchLabels": {"quarantined": "yes"}}, "policyTypes": ["Egress"]}
        meta = {"name": "nothing", "namespace": THERE}
        apply({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": nothing})
        time.sleep(5)
        items = [each for name in (HERE, THERE) for each in listed("pods", name)]
        addresses = {each["metadata"]["name"]: str(each["status"]["podIP"]) for each in items}
        if reached(THERE, "quarantined", {"stranger": (addresses["stranger"], PORT)}):
            pytest.skip("this cluster's network enforces no policies; tests/cluster/netpol.sh can")
        yield addresses
    finally:
        kubectl("delete", "namespace", HERE, THERE, "--wait=false", "--ignore-not-found")


def needed(addresses: dict[str, str]) -> dict[str, tuple[str, int]]:
    assert BACKEND is not None
    api, s3 = urlsplit(BACKEND.host), urlsplit(BACKEND.s3)
    assert api.hostname and s3.hostname
    return {
        "DNS and Kubeflow Pipelines": (f"ml-pipeline.{NAMESPACE}.svc.cluster.local", api.port or 80),
        "the object store": (s3.hostname, s3.port or 443),
        "Kubernetes": ("kubernetes.default.svc.cluster.local", 443),
        "another process of the job": (addresses["peer"], PORT),
    }


def test_a_stage_reaches_what_it_needs(world: dict[str, str]) -> None:
    assert reached(HERE, "stage", needed(world)) == set(needed(world))


def test_a_stage_reaches_nothing_else(world: dict[str, str]) -> None:
    assert BACKEND is not None
    others = {name: (world[name], PORT) for name in ("neighbour", "stranger")}
    with listening(str(urlsplit(BACKEND.s3).hostname)) as another:
        others |= another
        assert reached(THERE, "stranger", others) == set(others), "nothing was there to be refused"
        assert reached(HERE, "stage", others) == set()


@contextmanager
def listening(host: str) -> Iterator[dict[str, tuple[str, int]]]:
    """Another port of the store's host, where that is this machine."""
    try:
        server = create_server((host, 0))
    except OSError:
        yield {}
        return
    with server:
        yield {"the store's host at another port": (host, server.getsockname()[1])}


def test_nothing_else_reaches_a_stage(world: dict[str, str]) -> None:
    stage = {"stage": (world["stage"], PORT)}
    assert reached(HERE, "peer", stage) == {"stage"}
    assert reached(HERE, "neighbour", stage) == reached(THERE, "stranger", stage) == set()


def test_a_run_ends_well_behind_the_policy(world: dict[str, str], network: dict[str, Any], tmp_path: Path) -> None:
    assert BACKEND is not None
    recipe = parse_recipe(
        """
        name: behind-policy
        title: What is read, checked and written behind a policy
        inputs: {problems: {help: what is read}}
        stages:
          read: {use: prepare, with: {uri: "${problems}", kind: problems}}
        """,
        "behind-policy",
        load_stages(),
    )
    compile_recipe(recipe, tmp_path / "p.yaml", Scheduling(**SCHEDULING))
    jsonl(tmp_path / "data" / "problems.jsonl", [problem(number) for number in range(5)])
    given = {"problems": f"{BACKEND.upload(tmp_path / 'data', f'network-{int(time.time())}')}/problems.jsonl"}
    apply(policy(NAMESPACE, network))
    try:
        state, tasks = BACKEND.run(tmp_path / "p.yaml", given, "behind-policy", timeout=900)
    finally:
        kubectl("delete", "networkpolicy", "-n", NAMESPACE, "posttrain-network-test")
    assert (state, set(tasks.values()) - {"SUCCEEDED", "SKIPPED"}) == ("SUCCEEDED", set()), tasks
