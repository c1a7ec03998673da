"""Pods of compiled pipelines on fake GPU nodes: they land where the scheduling says, and who waits is told why.

The nodes are kwok's, which takes any pod for running: what a pod asks for and where it lands is real, its work is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from posttrain.components.catalogue import load_stages
from posttrain.pipelines.compiler import compile_recipe
from posttrain.pipelines.scheduling import Scheduling

from posttrain.recipes.load import parse_recipe
from tests.chart.helm import one, rendered
from tests.cluster.backend import BACKEND, NAMESPACE, SCHEDULING, on_cluster, said
from tests.cluster.objects import apply, kubectl, listed
from tests.made import demo, jsonl
from tests.tiny import tiny_policy

pytestmark = on_cluster(1800, pytest.mark.xdist_group("placement"))
RECIPE = """
name: placed
title: One stage with a model
inputs: {base: {help: the policy}, demos: {help: demonstrations}}
stages:
  base_policy: {use: base, with: {uri: "${base}"}}
  demonstrations: {use: prepare, with: {uri: "${demos}", kind: trajectories}}
  sft_policy: {use: sft, parents: {init: base_policy, data: demonstrations}}
"""
NODES = {"h": "nvidia.com/gpu", "a": "amd.com/gpu"}  # eight each
MODEL = "posttrain.test/gpu"
TOLERATED = [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}]
QUEUE = {"kueue.x-k8s.io/queue-name": "team-a"}


def by_affinity(model: str) -> dict[str, Any]:
    wanted = {"matchExpressions": [{"key": MODEL, "operator": "In", "values": [model]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [wanted]}}}


RUNS: dict[str, dict[str, Any]] = {
    "by selector": {"node_selector": {MODEL: "h"}, "gpu_count": "4", "memory": "64Gi", "cpu": "8"},
    "by affinity": {"affinity": by_affinity("a"), "gpu_type": "amd.com/gpu", "gpu_count": "2"},
    "too many": {"gpu_type": "amd.com/gpu", "gpu_count": "16"},
    "not tolerated": {"node_selector": {MODEL: "h"}, "gpu_count": "1", "tolerations": []},
}
NINTH: dict[str, Any] = {"node_selector": {MODEL: "h"}, "gpu_count": "4"}


def node(model: str) -> dict[str, Any]:
    capacity = {"cpu": "64", "memory": "512Gi", "pods": "110", NODES[model]: "8"}
    labels = {MODEL: model, "kubernetes.io/hostname": f"posttrain-fake-{model}"}
    meta = {"name": f"posttrain-fake-{model}", "annotations": {"kwok.x-k8s.io/node": "fake"}, "labels": labels}
    taint = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}
    status = {"allocatable": capacity, "capacity": capacity}
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {"taints": [taint]}, "status": status}


@pytest.fixture(scope="module")
def nodes() -> Iterator[None]:
    names = [f"posttrain-fake-{model}" for model in NODES]
    try:
        apply(*map(node, NODES))
        try:
            kubectl("wait", "--for=condition=Ready", "--timeout=60s", "node", *names)
        except AssertionError as error:
            pytest.skip(f"kwok does not run here: {error}")
        yield
    finally:
        for name in names:  # nobody is there to end them
            kubectl("delete", "pod", "-n", NAMESPACE, "--field-selector", f"spec.nodeName={name}", "--force")
        kubectl("delete", "node", *names, "--ignore-not-found")


@pytest.fixture(scope="module")
def quota() -> Iterator[None]:
    """The chart's, of eight GPUs."""
    made = one(rendered({"quota": {"enabled": True, "hard": {"pods": "1000"}}}), "ResourceQuota", "quota")
    made["metadata"] |= {"namespace": NAMESPACE, "name": "posttrain-placement-test"}
    try:
        apply(made)
        yield
    finally:
        kubectl("delete", "resourcequota", "-n", NAMESPACE, "posttrain-placement-test")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, nodes: None, quota: None) -> Iterator[Callable[..., str]]:
    """Starts the pipeline with these values of schedule_…; returns the run's id. All are terminated in the end."""
    assert BACKEND is not None
    folder = tmp_path_factory.mktemp("placed")
    recipe = parse_recipe(RECIPE, "placed", load_stages())
    fixed = SCHEDULING | {"labels": QUEUE, "shared_memory": "1Gi"}
    for scratch in ("", "20Gi"):
        compile_recipe(recipe, folder / f"placed{scratch}.yaml", Scheduling(**fixed, scratch=scratch))
    tiny_policy(folder / "data" / "base", "llama")
    jsonl(folder / "data" / "demos.jsonl", [demo(number) for number in range(5)])
    prefix = BACKEND.upload(folder / "data", f"placed-{int(time.time())}")
    given = {"base": f"{prefix}/base", "demos": f"{prefix}/demos.jsonl"}
    started: list[str] = []

    def start(name: str, values: dict[str, Any], scratch: str = "") -> str:
        placed = {f"schedule_{key}": value for key, value in ({"tolerations": TOLERATED} | values).items()}
        started.append(BACKEND.start(folder / f"placed{scratch}.yaml", given | placed, f"placed {name}"))
        return started[-1]

    yield start
    for run in started:
        with suppress(Exception):  # one that is not heard must not keep the others
            BACKEND.terminate(run)


@pytest.fixture(scope="module")
def runs(start: Callable[..., str]) -> dict[str, str]:
    return {name: start(name, values) for name, values in RUNS.items()}


@pytest.fixture(scope="module")
def placed(runs: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The pod with a model of each run."""
    return {name: model_pod(run) for name, run in runs.items()}


def model_pod(run: str) -> dict[str, Any]:
    """The run's pod that asks for GPUs, once the scheduler has looked at it."""
    until = time.monotonic() + 600
    ours = f"pipeline/runid={run}"
    while time.monotonic() < until:
        [phase] = [each.get("status", {}).get("phase", "") for each in listed("workflows", NAMESPACE, "-l", ours)]
        assert phase in ("", "Running"), f"run {run} ended before its pod with a model"
        for each in listed("pods", NAMESPACE, "-l", ours):
            conditions = [condition["type"] for condition in each["status"].get("conditions", [])]
            if set(asked(each)) & set(NODES.values()) and "PodScheduled" in conditions:
                return each
        time.sleep(2)
    raise AssertionError(f"run {run} has no pod with a model after 10 minutes")


def container(pod: dict[str, Any]) -> dict[str, Any]:
    [main] = [each for each in pod["spec"]["containers"] if each["name"] == "main"]
    return dict(main)


def asked(pod: dict[str, Any]) -> dict[str, str]:
    return dict(container(pod).get("resources", {}).get("limits", {}))


def test_pods_land_on_the_node_with_what_they_ask_for(placed: dict[str, dict[str, Any]]) -> None:
    selected, affine = placed["by selector"], placed["by affinity"]
    assert (selected["spec"]["nodeName"], asked(selected)["nvidia.com/gpu"]) == ("posttrain-fake-h", "4")
    assert (affine["spec"]["nodeName"], asked(affine)["amd.com/gpu"]) == ("posttrain-fake-a", "2")
    requests = container(selected)["resources"]["requests"]
    assert (requests["memory"], requests["cpu"]) == ("64Gi", "8")


def test_pods_have_the_queues_label_and_their_shared_memory(placed: dict[str, dict[str, Any]]) -> None:
    for pod in placed.values():
        assert pod["metadata"]["labels"].items() >= QUEUE.items()
        [mount] = [each["name"] for each in container(pod)["volumeMounts"] if each["mountPath"] == "/dev/shm"]
        [shm] = [each["emptyDir"] for each in pod["spec"]["volumes"] if each["name"] == mount]
        assert shm == {"medium": "Memory", "sizeLimit": "1Gi"}


def test_temporary_files_get_a_volume_of_their_own(start: Callable[..., str]) -> None:
    # Whether it lands is for the cluster's provisioner of volumes to say.
    pod = model_pod(start("scratch", RUNS["by affinity"], scratch="20Gi"))
    [volume] = [each for each in pod["spec"]["volumes"] if "ephemeral" in each]
    claim = volume["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert (claim["accessModes"], claim["resources"]["requests"]) == (["ReadWriteOnce"], {"storage": "20Gi"})
    [mount] = [each["mountPath"] for each in container(pod)["volumeMounts"] if each["name"] == volume["name"]]
    assert {"name": "TMPDIR", "value": mount} in container(pod)["env"]


@pytest.mark.parametrize(("name", "why"), [("too many", "Insufficient amd.com/gpu"), ("not tolerated", "taint")])
def test_who_watches_is_told_why_a_pod_fits_nowhere(
    placed: dict[str, dict[str, Any]], runs: dict[str, str], name: str, why: str
) -> None:
    assert "nodeName" not in placed[name]["spec"]
    said(runs[name], "sft", why)


def test_the_ninth_gpu_is_refused_and_who_watches_is_told_so(
    placed: dict[str, dict[str, Any]], start: Callable[..., str]
) -> None:
    assert sum(int(asked(pod).get("nvidia.com/gpu", "0")) for pod in placed.values()) == 5
    print(said(start("ninth", NINTH), "sft", "limited: requests.nvidia.com/gpu=8"))
