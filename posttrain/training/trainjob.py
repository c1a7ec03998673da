"""A stage as a Kubeflow Trainer TrainJob: one pod a node, `posttrain worker` in each, its processes below that.

`trainer.kubeflow.org/v1alpha1` as of Kubeflow Trainer 2.3. Trainer's torch runtime tells each pod the number of nodes,
its own rank and the first one's address (`PET_…`); parents come from URIs that every node can read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from posttrain.errors import ConfigError, ContractError, nearest
from posttrain.settings import parse_settings
from posttrain.stage import IMAGE_VARIABLE, Stage
from posttrain.storage.options import VARIABLES
from posttrain.storage.uris import CREDENTIALS
from posttrain.training.settings import TrainSettings

COMMAND = ("python", "-m", "posttrain", "worker")
_CONTAINER = _JOB = "node"  # what Trainer's runtimes call the training container and its replicated job
# A label of DNS, with room for what JobSet appends for the pods of a node.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?")
# What the pod security standard "restricted" asks for.
_POD_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
_CONTAINER_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


class Placement(BaseModel):
    """Where a TrainJob runs, and with what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str
    nodes: int = Field(default=1, gt=0)
    gpus: int = Field(default=1, ge=0, description="per node; 0 = none")
    gpu_type: str = "nvidia.com/gpu"
    cpu: str = Field(default="", description="per node, as 8; empty = unstated")
    memory: str = Field(default="", description="per node, as 64Gi; empty = unstated")
    shared_memory: str = Field(default="16Gi", description="size of /dev/shm; empty = the runtime's 64 MiB")
    secret: str = Field(default="posttrain-s3", description="with S3 credentials; may be absent; empty = none")
    env: dict[str, str] = Field(default_factory=dict, description="further environment variables")
    service_account: str = ""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    runtime: str = Field(default="torch-distributed", description="a ClusterTrainingRuntime with a torch policy")
    deadline_hours: float = Field(default=24, gt=0, description="a job that runs longer is failed")


def train_job(
    name: str,
    namespace: str,
    stage: Stage[Any],
    parents: Mapping[str, Sequence[str]],
    settings: Mapping[str, Any],
    out: str,
    placement: Placement,
) -> dict[str, Any]:
    """The manifest of a TrainJob that runs a stage.

    Args:
        parents: role → URIs of finished artifacts.
        settings: as for `execute`; refused here if they alone are wrong.
        out: the URI at which the artifact will be.

    Raises:
        ConfigError: the name, a setting, or processes without GPUs to run them on.
        ContractError: a parent's role is unknown, or a required one is missing.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"TrainJob {name!r}: not a name for pods; use at most 50 of a-z, 0-9 and -, a letter first")
    chosen = parse_settings(stage.settings, settings, stage.name)
    if not isinstance(chosen, TrainSettings):
        raise ConfigError(f"{stage.name}: does not train, so it has no use for a TrainJob; run it as a component")
    stage.check_settings(chosen)
    _check_parents(stage, parents)
    if placement.gpus and chosen.processes > placement.gpus:
        raise ConfigError(f"processes={chosen.processes} on nodes with {placement.gpus} GPUs; lower it, or raise gpus")
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": "posttrain"}},
        "spec": {
            "runtimeRef": {"name": placement.runtime},
            "activeDeadlineSeconds": int(placement.deadline_hours * 3600),
            "trainer": {
                "image": placement.image,
                "command": list(COMMAND),
                "args": worker_arguments(stage.name, parents, settings, out),
                "numNodes": placement.nodes,
                "numProcPerNode": chosen.processes or max(1, placement.gpus),
                "resourcesPerNode": _resources(placement),
                "env": _environment(placement),
            },
            "runtimePatches": [{"manager": "posttrain", "trainingRuntimeSpec": _patched(_pod(placement))}],
        },
    }


def worker_arguments(
    stage: str, parents: Mapping[str, Sequence[str]], settings: Mapping[str, Any], out: str
) -> list[str]:
    """What `posttrain worker` is told."""
    given = [("--parent", f"{role}={uri}") for role, uris in parents.items() for uri in uris]
    pairs = [("--stage", stage), *given, ("--settings", json.dumps(dict(settings), sort_keys=True)), ("--out", out)]
    return [word for pair in pairs for word in pair]


def _check_parents(stage: Stage[Any], parents: Mapping[str, Sequence[str]]) -> None:
    for role in parents:
        if role not in stage.parents:
            raise ContractError(f"{stage.name}: no parent is called {role!r}{nearest(role, stage.parents)}")
    for role, spec in stage.parents.items():
        if spec.required and not parents.get(role):
            raise ContractError(f"{stage.name}: needs a parent {role!r} ({spec.kind}): {spec.help}")


def _resources(placement: Placement) -> dict[str, Any]:
    asked = {"cpu": placement.cpu, "memory": placement.memory}
    accelerators = {placement.gpu_type: placement.gpus} if placement.gpus else {}
    return {"requests": {k: v for k, v in asked.items() if v} | accelerators, "limits": accelerators}


def _environment(placement: Placement) -> list[dict[str, Any]]:
    plain = {IMAGE_VARIABLE: placement.image} | placement.env
    secret = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": placement.secret, "key": key, "optional": True}}}
        for key in ((*CREDENTIALS, *VARIABLES) if placement.secret else ())
    ]
    return [{"name": key, "value": value} for key, value in sorted(plain.items())] + secret


def _pod(placement: Placement) -> dict[str, Any]:
    container: dict[str, Any] = {"name": _CONTAINER, "securityContext": _CONTAINER_SECURITY}
    pod: dict[str, Any] = {"securityContext": _POD_SECURITY, "containers": [container]}
    if placement.shared_memory:  # NCCL and data loaders need more than the runtime's 64 MiB
        memory = {"medium": "Memory", "sizeLimit": placement.shared_memory}
        pod["volumes"] = [{"name": "shm", "emptyDir": memory}]
        container["volumeMounts"] = [{"name": "shm", "mountPath": "/dev/shm"}]
    optional = {
        "serviceAccountName": placement.service_account,
        "nodeSelector": placement.node_selector,
        "tolerations": placement.tolerations,
    }
    return pod | {key: value for key, value in optional.items() if value}


def _patched(pod: dict[str, Any]) -> dict[str, Any]:
    """A pod's patch at its place in the runtime: job set, replicated job, job, pod."""
    job = {"name": _JOB, "template": {"spec": {"template": {"spec": pod}}}}
    return {"template": {"spec": {"replicatedJobs": [job]}}}
