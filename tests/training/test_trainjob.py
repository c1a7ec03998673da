"""A TrainJob's manifest: what Kubeflow Trainer's CRD allows, as it is reviewed, and its command really runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from posttrain.components.catalogue import load_stage

from posttrain.cli.worker import end_when_told
from posttrain.errors import ConfigError, ContractError
from posttrain.training.trainjob import Placement, train_job
from tests.training.jobs import BRIEF, SUMS, answered, base, prepared, record, run

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
GOLDEN = HERE / "trainjob_golden.yaml"

PARENTS = {"init": ["s3://bucket/base"], "data": ["s3://bucket/demos"]}
OUT = "s3://bucket/trained"
LARGE = Placement(
    image="registry.example/posttrain/train-python:1",
    nodes=2,
    gpus=8,
    memory="512Gi",
    cpu="64",
    env={"NCCL_DEBUG": "WARN"},
    service_account="trainer",
    node_selector={"accelerator": "h100"},
    tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
)
SETTINGS: dict[str, Any] = {"strategy": "fsdp", "learning_rate": 1e-5, "batch_size": 4}


def job(
    stage: str = "sft",
    parents: dict[str, list[str]] = PARENTS,
    settings: dict[str, Any] = SETTINGS,
    out: str = OUT,
    placement: Placement = LARGE,
    name: str = "sft-policy",
) -> dict[str, Any]:
    return train_job(name, "training", load_stage(stage), parents, settings, out, placement)


def closed(schema: Any) -> Any:
    """The schema as the API server prunes by it: what it does not name, nobody reads."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    if schema.pop("x-kubernetes-int-or-string", None):
        return {"type": ["integer", "string"]}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        schema.setdefault("additionalProperties", False)
    return schema


@pytest.mark.parametrize("placement", [LARGE, Placement(image="i", gpus=0, shared_memory="", secret="")], ids=str)
def test_the_crd_allows_it(placement: Placement) -> None:
    schema = closed(yaml.safe_load((HERE / "trainjob_schema.yaml").read_text()))
    settings = SETTINGS if placement.gpus else BRIEF
    made = job(placement=placement, settings=settings)
    jsonschema.validate(made, schema)
    made["spec"]["trainer"]["nodes"] = 2
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(made, schema)


def test_golden() -> None:
    made = yaml.safe_dump(job(), sort_keys=False, width=120)
    if os.environ.get("POSTTRAIN_REWRITE_GOLDEN"):
        GOLDEN.write_text(made)
    assert made == GOLDEN.read_text()


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"name": "Sft_Policy"}, ConfigError, "not a name for pods"),
        ({"stage": "rollout", "parents": {}, "settings": {}}, ConfigError, "does not train"),
        ({"settings": {"learnig_rate": 1}}, ConfigError, "did you mean 'learning_rate'"),
        ({"settings": {"processes": 16}}, ConfigError, "processes=16 on nodes with 8 GPUs"),
        ({"parents": {"init": ["s3://b/k"]}}, ContractError, "sft: needs a parent 'data'"),
        ({"parents": PARENTS | {"dta": ["s3://b/k"]}}, ContractError, "did you mean 'data'"),
    ],
)
def test_mistakes_are_refused_before_anything_is_submitted(
    changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        job(**changes)


def test_a_worker_that_is_told_to_end_does_so() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        end_when_told()
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143


def test_what_a_job_runs_in_is_as_told() -> None:
    told = {"user": 7, "claims": {"kept": "/cache"}, "scratch": "1Gi", "affinity": {"nodeAffinity": {}}, "cpu": "0"}
    placement = LARGE.model_copy(update={**told, "runtime": "TrainingRuntime/ours", "pull_secrets": ["pull"]})
    made = job(placement=placement)["spec"]
    assert made["runtimeRef"] == {"name": "ours", "kind": "TrainingRuntime"}
    assert "cpu" not in made["trainer"]["resourcesPerNode"]["requests"]
    [patched] = made["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = patched["template"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == 7
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    assert mounts == {"shm": "/dev/shm", "scratch": "/var/tmp/posttrain", "kept": "/cache"}
    assert {each["name"] for each in pod["volumes"]} == set(mounts)


def container(made: dict[str, Any], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the container's command as a node would, with this Python for its `python`."""
    trainer = made["spec"]["trainer"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*trainer["command"], *trainer["args"]],
        cwd=ROOT,
        env=os.environ | {"PATH": path, "CUDA_VISIBLE_DEVICES": ""} | environment,
        capture_output=True,
        text=True,
    )


def test_the_containers_command_makes_the_stages_artifact(tmp_path: Path) -> None:
    init = base(tmp_path / "init", "llama")
    data = prepared(tmp_path / "data", answered(SUMS), "trajectories")
    here = record(run("sft", tmp_path / "here", BRIEF, init=init, data=data))
    parents = {"init": [f"file://{init}"], "data": [f"file://{data}"]}
    made = job(parents=parents, settings=BRIEF, out=f"file://{tmp_path}/there", placement=Placement(image="i", gpus=0))
    ended = container(made, OMP_NUM_THREADS="1")
    assert ended.returncode == 0, ended.stderr
    there = record(tmp_path / "there")
    assert (there.digest, there.files, there.id) == (here.digest, here.files, here.id)
    again = container(made)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1 and "an artifact is there already" in again.stderr
