"""A stage on two nodes, by Kubeflow Trainer: it trains, loses a node and goes on, and leaves no job behind.

Needs Kubeflow Trainer 2 and JobSet on the cluster; `trainer.sh` brings them. Rights and runtime are the chart's.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from posttrain.pipelines.ablation import compile_ablation
from posttrain.pipelines.scheduling import Scheduling

from tests.chart.helm import CHART, helm
from tests.cluster import pods
from tests.cluster.backend import BACKEND, BUCKET, NAMESPACE, SCHEDULING, TINY, on_cluster
from tests.cluster.conftest import World
from tests.cluster.kept import RECIPE, record, starter, wait_for_step

RELEASE, NAME = "posttrain-nodes-test", "nodes-sft"
OF_JOB = "jobset.sigs.k8s.io/jobset-name"
RUNTIMES = {"ours": f"TrainingRuntime/{RELEASE}-nodes", "Trainer's own": "torch-distributed"}


def trainer() -> bool:
    asked = ["kubectl", "get", "crd", "trainjobs.trainer.kubeflow.org"]
    return subprocess.run(asked, capture_output=True).returncode == 0


pytestmark = on_cluster(
    3600,
    pytest.mark.xdist_group("trainjob"),
    pytest.mark.skipif(
        BACKEND is not None and not trainer(), reason="no Kubeflow Trainer; see tests/cluster/trainer.sh"
    ),
)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service account with no rights but the chart's."""
    assert BACKEND is not None
    repository, _, tag = BACKEND.image.rpartition(":")
    values = {"images": {"train": {"repository": repository, "tag": tag}}, "trainingRuntime": {"enabled": True}}
    folder = tmp_path_factory.mktemp("chart")
    (folder / "values.json").write_text(json.dumps(values), encoding="utf-8")
    shown = [f"--show-only=templates/{name}.yaml" for name in ("access/accounts", "access/runner", "pipelines/runtime")]
    made = helm("template", RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(folder / "values.json"), *shown)
    assert made.returncode == 0, made.stderr
    (folder / "objects.yaml").write_text(made.stdout, encoding="utf-8")
    subprocess.run(["kubectl", "apply", "-f", str(folder / "objects.yaml")], check=True)
    yield f"{RELEASE}-runner"
    subprocess.run(["kubectl", "delete", "-f", str(folder / "objects.yaml"), "--wait=false"], check=True)


@pytest.fixture(scope="module", params=RUNTIMES)
def start(
    request: pytest.FixtureRequest, account: str, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """Starts the pipeline; returns the run's id."""
    assert BACKEND is not None
    folder = tmp_path_factory.mktemp("nodes")
    return starter(BACKEND, world, folder, NAME, 120, 20, account, nodes=2, runtime=RUNTIMES[request.param])


@pytest.fixture
def prefix() -> str:
    return f"checkpoints-{time.time_ns()}"


@pytest.fixture(scope="module")
def undisturbed(start: Callable[..., str]) -> dict[str, Any]:
    """The record of a policy that nothing happened to."""
    assert BACKEND is not None
    run = start(checkpoint_uri=f"s3://{BUCKET}/checkpoints-{time.time_ns()}")
    assert BACKEND.ended(run)[0] == "SUCCEEDED"
    return record(BACKEND, NAME, run)


def gone_within(seconds: float, node: Any, kinds: str = "trainjobs,jobsets,pods") -> float:
    """Wait until nothing is left of a node's job: pods may take their grace period; returns after how many seconds."""
    began, job = time.monotonic(), node.metadata.labels[OF_JOB]
    while left := [name for name in listed(kinds) if f"/{job}" in name]:
        assert time.monotonic() - began < seconds, left
        time.sleep(0.5)
    return time.monotonic() - began


def listed(kinds: str) -> list[str]:
    return subprocess.check_output(["kubectl", "get", kinds, "-n", NAMESPACE, "-o", "name"], text=True).split()


def started(run: str, checkpoints: str) -> tuple[Any, list[Any]]:
    """The stage's pod and the nodes' pods, once the run has kept something."""
    assert BACKEND is not None
    wait_for_step(BACKEND, checkpoints, 40)
    [stage] = pods.working(run, NAMESPACE)
    job = re.search(r"TrainJob (\S+): 2 nodes", log(stage))
    assert job
    found = pods.core().list_namespaced_pod(NAMESPACE, label_selector=f"{OF_JOB}={job[1]}").items
    return stage, sorted(found, key=lambda pod: str(pod.metadata.labels["batch.kubernetes.io/job-completion-index"]))


def log(stage: Any) -> str:
    return str(pods.core().read_namespaced_pod_log(stage.metadata.name, NAMESPACE, container="main"))


def test_two_nodes_train_together(undisturbed: dict[str, Any]) -> None:
    facts = undisturbed["facts"]
    assert (facts["processes"], facts["global_batch"]) == (2, 64)
    assert BACKEND is not None and undisturbed["environment"]["image"] == BACKEND.image


def test_the_job_of_a_lost_node_goes_on_and_makes_what_it_would_have_made(
    start: Callable[..., str], undisturbed: dict[str, Any], prefix: str
) -> None:
    assert BACKEND is not None
    run = start(checkpoint_uri=f"s3://{BUCKET}/{prefix}")
    stage, nodes = started(run, prefix)
    pods.delete_at_once(nodes[1])
    assert BACKEND.ended(run)[0] == "SUCCEEDED"
    made = record(BACKEND, NAME, run)
    assert made["digest"] == undisturbed["digest"]
    assert made["counts"]["resumed_from_step"] >= 40
    assert "going on from step" in log(stage)
    gone_within(240, nodes[1])


@pytest.mark.parametrize("end", ["terminated", "deleted"])
def test_who_ends_the_task_ends_the_job(end: str, start: Callable[..., str], prefix: str) -> None:
    assert BACKEND is not None
    run = start(checkpoint_uri=f"s3://{BUCKET}/{prefix}")
    stage, nodes = started(run, prefix)
    if end == "terminated":
        BACKEND.terminate(run)
    else:
        pods.delete_at_once(stage)
    job, pods_too = gone_within(120, nodes[0], "trainjobs"), gone_within(240, nodes[0])
    print(json.dumps({"end": end, "job_gone": round(job, 1), "pods_gone": round(job + pods_too, 1)}))


def test_the_same_candidate_twice_has_jobs_of_its_own_twice(account: str, world: World, tmp_path: Path) -> None:
    """What follows a recipe has its stages trained by nodes, in the branches of a loop at the same time."""
    assert BACKEND is not None
    none = {"gpu_count": "0", "gpu_type": "nvidia.com/gpu", "memory": "0", "cpu": "0"}
    settled = Scheduling(**SCHEDULING, nodes=2, runtime=RUNTIMES["ours"], loop_resources=none)
    compile_ablation(tmp_path / "ablation.yaml", settled)
    recipe = RECIPE.replace("NAME", NAME).replace("STEPS", "20").replace("EVERY", "10")
    arguments = {
        **{name: world.uris[name] for name in ("base", "demos", "problems", "held_out")},
        "candidates": [{"label": label, "recipe": recipe} for label in ("one", "another")],
        "settings_evaluation": TINY["evaluate"],
        "checkpoint_uri": f"s3://{BUCKET}/checkpoints-{time.time_ns()}",
    }
    run = BACKEND.start(tmp_path / "ablation.yaml", arguments, "ablation-on-nodes", account)
    assert BACKEND.ended(run)[0] == "SUCCEEDED"
    of_run = pods.core().list_namespaced_pod(NAMESPACE, label_selector=f"pipeline/runid={run}").items
    found = [re.findall(r"TrainJob (\S+): 2 nodes", log(pod)) for pod in of_run]
    assert sorted(len(jobs) for jobs in found if jobs) == [1, 1]
    assert len({job for jobs in found for job in jobs}) == 2
