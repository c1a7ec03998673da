"""A stage as a Kubeflow Trainer TrainJob: one pod a node, `posttrain worker` in each, its processes below that.

`trainer.kubeflow.org/v1alpha1` as of Kubeflow Trainer 2.2 and 2.3. Trainer's torch runtime tells each pod the number
of nodes, its own rank and the first one's address (`PET_…`); parents come from URIs that every node can read.
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

COMMAND = ("python3", "-m", "posttrain", "worker")
CONTAINER = _JOB = "node"  # what Trainer's runtimes call the training container and its replicated job
SCRATCH = "/var/tmp/posttrain"
_OF_NAMESPACE = "TrainingRuntime/"
GROUP, VERSION, KIND = "trainer.kubeflow.org", "v1alpha1", "TrainJob"
_MANAGER = "posttrain/stages"  # Trainer wants a domain and a path
PART_OF = {"app.kubernetes.io/part-of": "posttrain"}  # a label of every pod of this library
_NO_SIDECAR = {"sidecar.istio.io/inject": "false"}  # it would outlive the training, and the job with it
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
    cpu: str = Field(default="", description="per node, as 8; empty or 0 = unstated")
    memory: str = Field(default="", description="per node, as 64Gi; empty or 0 = unstated")
    shared_memory: str = Field(default="16Gi", description="size of /dev/shm; empty = the runtime's 64 MiB")
    scratch: str = Field(default="", description="size of a volume for temporary files; empty = none")
    scratch_class: str = Field(default="", description="storage class of that volume; empty = the cluster's default")
    secret: str = Field(default="posttrain-s3", description="with S3 credentials; may be absent; empty = none")
    env: dict[str, str] = Field(default_factory=dict, description="further environment variables")
    variables: list[dict[str, Any]] = Field(default_factory=list, description="and such as a pod spec has, of secrets")
    service_account: str = ""
    pull_secrets: list[str] = Field(default_factory=list)
    user: int = Field(default=0, ge=0, description="the numeric user; 0 = the image's")
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    affinity: dict[str, Any] = Field(default_factory=dict)
    claims: dict[str, str] = Field(default_factory=dict, description="volume claim → where it is mounted")
    labels: dict[str, str] = Field(default_factory=dict, description="of the job and its pods")
    runtime: str = Field(
        default="torch-distributed",
        description="a ClusterTrainingRuntime with a torch policy, or TrainingRuntime/NAME, one of the namespace",
    )
    deadline_hours: float = Field(default=24, gt=0, description="a job that runs longer is failed")


def train_job(
    name: str,
    namespace: str,
    stage: Stage[Any],
    parents: Mapping[str, Sequence[str]],
    settings: Mapping[str, Any],
    out: str,
    placement: Placement,
    page: str = "",
    once: bool = False,
    owners: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The manifest of a TrainJob that runs a stage.

    Args:
        parents: role → URIs of finished artifacts.
        settings: as for `execute`; refused here if they alone are wrong.
        out: the URI at which the artifact will be.
        page: the URI of the stage's page, if it is wanted.
        once: an artifact that is at `out` already is the job's own, and no mistake.
        owners: references to objects that the job ends with.

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
    metadata = {"name": name, "namespace": namespace, "labels": PART_OF | placement.labels}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": metadata | ({"ownerReferences": [dict(owner) for owner in owners]} if owners else {}),
        "spec": {
            "runtimeRef": _runtime(placement.runtime),
            "activeDeadlineSeconds": int(placement.deadline_hours * 3600),
            "trainer": {
                "image": placement.image,
                "command": list(COMMAND),
                "args": worker_arguments(stage.name, parents, settings, out, page, once),
                "numNodes": placement.nodes,
                "numProcPerNode": chosen.processes or max(1, placement.gpus),
                "resourcesPerNode": _resources(placement),
                "env": _environment(placement),
            },
            "runtimePatches": [{"manager": _MANAGER, "trainingRuntimeSpec": _patched(placement)}],
        },
    }


def worker_arguments(
    stage: str,
    parents: Mapping[str, Sequence[str]],
    settings: Mapping[str, Any],
    out: str,
    page: str = "",
    once: bool = False,
) -> list[str]:
    """What `posttrain worker` is told."""
    given = [("--parent", f"{role}={uri}") for role, uris in parents.items() for uri in uris]
    pairs = [("--stage", stage), *given, ("--settings", json.dumps(dict(settings), sort_keys=True)), ("--out", out)]
    pairs += [("--page", page)] if page else []
    return [word for pair in pairs for word in pair] + ["--once"] * once


def _check_parents(stage: Stage[Any], parents: Mapping[str, Sequence[str]]) -> None:
    for role in parents:
        if role not in stage.parents:
            raise ContractError(f"{stage.name}: no parent is called {role!r}{nearest(role, stage.parents)}")
    for role, spec in stage.parents.items():
        if spec.required and not parents.get(role):
            raise ContractError(f"{stage.name}: needs a parent {role!r} ({spec.kind}): {spec.help}")


def _runtime(name: str) -> dict[str, str]:
    if name.startswith(_OF_NAMESPACE):
        return {"name": name.removeprefix(_OF_NAMESPACE), "kind": _OF_NAMESPACE.rstrip("/")}
    return {"name": name}


def _resources(placement: Placement) -> dict[str, Any]:
    asked = {"cpu": placement.cpu, "memory": placement.memory}
    accelerators = {placement.gpu_type: placement.gpus} if placement.gpus else {}
    return {"requests": {k: v for k, v in asked.items() if v not in ("", "0")} | accelerators, "limits": accelerators}


def _environment(placement: Placement) -> list[dict[str, Any]]:
    plain = {IMAGE_VARIABLE: placement.image} | placement.env
    plain |= {"TMPDIR": SCRATCH} if placement.scratch else {}
    secret = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": placement.secret, "key": key, "optional": True}}}
        for key in ((*CREDENTIALS, *VARIABLES) if placement.secret else ())
    ]
    return [{"name": key, "value": value} for key, value in sorted(plain.items())] + secret + placement.variables


def _pod(placement: Placement) -> dict[str, Any]:
    security = _POD_SECURITY | ({"runAsUser": placement.user} if placement.user else {})
    volumes = _volumes(placement)
    mounts = [{"name": name, "mountPath": path} for name, (path, _) in volumes.items()]
    container = {"name": CONTAINER, "securityContext": _CONTAINER_SECURITY, "volumeMounts": mounts}
    optional = {
        "volumes": [{"name": name, **source} for name, (_, source) in volumes.items()],
        "serviceAccountName": placement.service_account,
        "imagePullSecrets": [{"name": name} for name in placement.pull_secrets],
        "nodeSelector": placement.node_selector,
        "tolerations": placement.tolerations,
        "affinity": placement.affinity,
    }
    containers = [{key: value for key, value in container.items() if value}]
    return {"securityContext": security, "containers": containers} | {k: v for k, v in optional.items() if v}


def _volumes(placement: Placement) -> dict[str, tuple[str, dict[str, Any]]]:
    """A volume's name → where it is mounted, and what it is."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    if placement.shared_memory:  # NCCL and data loaders need more than the runtime's 64 MiB
        found["shm"] = ("/dev/shm", {"emptyDir": {"medium": "Memory", "sizeLimit": placement.shared_memory}})
    if placement.scratch:
        asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": placement.scratch}}}
        asked |= {"storageClassName": placement.scratch_class} if placement.scratch_class else {}
        found["scratch"] = (SCRATCH, {"ephemeral": {"volumeClaimTemplate": {"spec": asked}}})
    for claim, path in placement.claims.items():
        found[claim] = (path, {"persistentVolumeClaim": {"claimName": claim}})
    return found


def _patched(placement: Placement) -> dict[str, Any]:
    """A pod's patch at its place in the runtime: job set, replicated job, job, pod."""
    metadata = {"labels": PART_OF | placement.labels, "annotations": _NO_SIDECAR}
    job = {"name": _JOB, "template": {"spec": {"template": {"metadata": metadata, "spec": _pod(placement)}}}}
    return {"template": {"spec": {"replicatedJobs": [job]}}}
