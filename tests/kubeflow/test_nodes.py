"""A stage on several nodes: what its pod hands to the job, and what it hands on of what the job made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from posttrain.components.catalogue import load_stage

from posttrain.artifacts.record import Record, by_reference, read_record
from posttrain.cli.worker import run_worker
from posttrain.errors import ConfigError, ContractError
from posttrain.kubeflow import nodes, trainjobs
from posttrain.kubeflow.nodes import execute_on_nodes, job_name, placement_of, task_of
from posttrain.stage import execute
from posttrain.storage.references import INLINE_VARIABLE, STORE_VARIABLE, hand_on
from tests.kubeflow.kubernetes import Held, kubernetes
from tests.training.jobs import BRIEF, SUMS, answered, base, prepared

SECRET = {"secretKeyRef": {"name": "mine", "key": "AWS_ACCESS_KEY_ID", "optional": True}}
POD: dict[str, Any] = {
    "metadata": {"name": "stage-pod", "uid": "u-1", "labels": {"pipeline/runid": "run-1"}},
    "spec": {
        "serviceAccountName": "runner",
        "imagePullSecrets": [{"name": "pull"}],
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
            {"key": "nvidia.com/gpu", "operator": "Exists"},
        ],
        "volumes": [
            {"name": "cache", "persistentVolumeClaim": {"claimName": "fetched"}},
            {"name": "var-run-argo", "emptyDir": {}},
        ],
        "containers": [
            {"name": "wait", "image": "argoexec"},
            {
                "name": "main",
                "image": "registry.example/train:1",
                "securityContext": {"runAsUser": 10001},
                "volumeMounts": [
                    {"name": "cache", "mountPath": "/var/cache/posttrain"},
                    {"name": "var-run-argo", "mountPath": "/var/run/argo"},
                ],
                "env": [
                    {"name": "ARGO_NODE_ID", "value": "n"},
                    {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "KFP_RUN_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['a']"}}},
                    {"name": "POSTTRAIN_CACHE", "value": "/var/cache/posttrain"},
                    {"name": "AWS_ACCESS_KEY_ID", "valueFrom": SECRET},
                ],
            },
        ],
    },
    "status": {},
}
GIVEN = {"nodes": 2, "gpus": "0", "cpu": "0", "memory": "64Gi", "shared_memory": "", "labels": {"queue": "a"}}


def test_the_nodes_pods_are_made_after_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_RUN_NAME", "tuesday")
    placed = placement_of(POD, GIVEN)
    assert (placed.nodes, placed.gpus, placed.memory, placed.labels) == (2, 0, "64Gi", {"queue": "a"})
    assert (placed.image, placed.service_account, placed.user) == ("registry.example/train:1", "runner", 10001)
    assert (placed.node_selector, placed.tolerations) == ({"pool": "gpu"}, [POD["spec"]["tolerations"][1]])
    assert (placed.claims, placed.pull_secrets) == ({"fetched": "/var/cache/posttrain"}, ["pull"])
    assert placed.env == {"KFP_RUN_NAME": "tuesday", "POSTTRAIN_CACHE": "/var/cache/posttrain"}
    assert placed.variables == [{"name": "AWS_ACCESS_KEY_ID", "valueFrom": SECRET}]


def test_what_nodes_are_told_is_checked() -> None:
    with pytest.raises(ConfigError, match="nodes: gpus"):
        placement_of(POD, {"nodes": 2, "gpus": "all"})


def test_a_job_has_one_name_in_all_tries_of_a_task_and_in_no_other() -> None:
    name = job_name("sft_policy", tried("run-1.sft", 0), [{"a": 1}])
    assert name == job_name("sft_policy", tried("run-1.sft", 1), [{"a": 1}])
    others = [
        job_name("sft_policy", tried("run-1.sft", 0), [{"a": 2}]),
        job_name("sft_policy", tried("run-1.loop(0:0).sft", 0), [{"a": 1}]),
        job_name("sft_policy", tried("run-1.loop(1:1).sft", 0), [{"a": 1}]),
        job_name("sft_policy", task_of(POD), [{"a": 1}]),
    ]
    assert len({name, *others}) == 5
    for stage in ("sft_policy", "9", "Überlang" * 20):
        assert nodes.train_job.__globals__["_NAME"].fullmatch(job_name(stage, "r", 1))


def tried(task: str, number: int) -> str:
    return task_of({"metadata": {"annotations": {"workflows.argoproj.io/node-name": f"{task}({number})"}}})


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """A cluster whose jobs do what their containers are told, at once."""
    with kubernetes() as (cluster, held):
        held.pods["stage-pod"] = POD
        monkeypatch.setenv("KFP_POD_NAME", "stage-pod")
        monkeypatch.setattr(nodes, "here", lambda: cluster)
        monkeypatch.setattr(trainjobs, "_POLL", 0.0)
        held.story = [lambda held: work(held.created[-1]), lambda held: held.ends("Complete")]
        yield held


def work(job: dict[str, Any]) -> None:
    words = job["spec"]["trainer"]["args"]
    pairs = [*pairwise(words)]
    told = dict(pairs)
    parents = [value for key, value in pairs if key == "--parent"]
    run_worker(told["--stage"], parents, told["--settings"], told["--out"], told["--page"], once="--once" in words)


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    folder = tmp_path_factory.mktemp("parents")
    data = prepared(folder / "data", answered(SUMS), "trajectories")
    return {"init": [base(folder / "init", "llama")], "data": [data]}


def spread(parents: dict[str, list[Path]], folder: Path, **settings: Any) -> Record:
    given = {**BRIEF, "checkpoint_uri": str(folder / "kept"), "checkpoint_steps": 1000, **settings}
    return execute_on_nodes(load_stage("sft"), parents, given, folder / "out", folder / "page.html", GIVEN)


def test_the_result_is_what_this_pod_would_have_made(
    there: Held, parents: dict[str, list[Path]], tmp_path: Path
) -> None:
    here = execute(load_stage("sft"), parents, BRIEF, tmp_path / "here", tmp_path / "here.html")
    made = spread(parents, tmp_path)
    assert (made.id, made.digest) == (here.id, here.digest)
    assert read_record(tmp_path / "out").files == here.files
    assert (tmp_path / "page.html").read_text().lower().startswith("<!doctype html>")
    [job] = there.created
    assert job["metadata"]["ownerReferences"] == [nodes.owner_of(POD)]
    assert there.jobs == {}
    assert [path for path in (tmp_path / "kept" / "trainjobs").rglob("*") if path.is_file()] == []


def test_a_large_result_is_handed_on_where_it_lies_and_found_by_the_next_try(
    there: Held, parents: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store"))
    monkeypatch.setenv(INLINE_VARIABLE, "1")
    made = spread(parents, tmp_path)
    assert by_reference(tmp_path / "out", made)
    assert hand_on(tmp_path / "out", made).startswith(str(tmp_path / "store" / "trainjobs"))
    (tmp_path / "out").rename(tmp_path / "earlier")
    assert spread(parents, tmp_path).id == made.id
    assert (tmp_path / "page.html").read_text().lower().startswith("<!doctype html>")
    assert len(there.created) == 1
    left = {path.parent.name for path in (tmp_path / "store" / "trainjobs").rglob("posttrain.json")}
    assert left == {"result"}


def test_of_a_recipe_that_is_followed_the_training_stages_are_done_by_nodes(
    there: Held, parents: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.story *= 2
    brief = f"with: {json.dumps(BRIEF)}"
    recipe = f"""
name: twice
title: Twice
inputs: {{base: {{help: The policy.}}, demos: {{help: Demonstrations.}}}}
stages:
  start: {{use: base, with: {{uri: "${{base}}"}}}}
  rows: {{use: prepare, with: {{uri: "${{demos}}", kind: trajectories}}}}
  first: {{use: sft, parents: {{init: start, data: rows}}, {brief}}}
  second: {{use: sft, parents: {{init: first, data: rows}}, {brief}}}
"""
    given = {"recipe": recipe, "demos": f"{parents['data'][0]}.jsonl", "checkpoint_uri": str(tmp_path / "kept")}
    base = {"base": parents["init"]}
    here = execute(load_stage("follow"), base, given, tmp_path / "here")
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store"))
    monkeypatch.setenv(INLINE_VARIABLE, "1")
    made = execute(load_stage("follow"), base, {**given, "nodes": GIVEN}, tmp_path / "out")
    assert (made.name, made.digest) == ("second", here.digest)
    assert f"/trainjobs/{there.created[-1]['metadata']['name']}/" in hand_on(tmp_path / "out", made)
    first, second = (job["metadata"]["name"] for job in there.created)
    assert (first.partition("-")[0], second.partition("-")[0], there.jobs) == ("first", "second", {})


def test_mistakes_are_found_before_a_job_is_made(there: Held, parents: dict[str, list[Path]], tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="needs a parent 'data'"):
        spread({"init": parents["init"]}, tmp_path)
    with pytest.raises(ConfigError, match="no place that all nodes reach"):
        spread(parents, tmp_path, checkpoint_uri="")
    assert there.created == []


def test_without_a_parent_there_is_nothing_to_start(
    there: Held, parents: dict[str, list[Path]], tmp_path: Path
) -> None:
    absent = tmp_path / "absent"
    execute(load_stage("prepare"), {}, {"uri": "", "kind": "trajectories", "optional": True}, absent)
    assert spread({**parents, "data": [absent]}, tmp_path).absent
    assert there.created == []
