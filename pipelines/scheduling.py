"""How tasks are scheduled, applied in one place to every stage.

What KFP lets be decided at run time is a pipeline parameter (`schedule_…`); the rest is `Scheduling`, fixed when the
pipeline is compiled, because KFP writes it into the pipeline spec.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from kfp import dsl, kubernetes
from posttrain.components.images import CONTROL, TRAIN
from pydantic import BaseModel, ConfigDict, Field, field_validator

from posttrain.kubeflow import webhook
from posttrain.recipes.execute import SHARED_SETTINGS, keeps_checkpoints
from posttrain.settings import read_yaml, validated
from posttrain.stage import Stage
from posttrain.storage import cache
from posttrain.storage.options import VARIABLES
from posttrain.storage.references import STORE_VARIABLE
from posttrain.storage.uris import CREDENTIALS
from posttrain.training.settings import TrainSettings
from posttrain.training.tracking import RUN_VARIABLE
from posttrain.training.trainjob import PART_OF, SCRATCH, Placement

# What may be in the secret, and what a task is told of it.
_SECRET_KEYS = (
    *CREDENTIALS,
    *VARIABLES,
    STORE_VARIABLE,
    "VLLM_API_KEY",
    "POSTTRAIN_JUDGE_URL",
    "POSTTRAIN_JUDGE_MODEL",
    "POSTTRAIN_JUDGE_KEY",
    webhook.VARIABLE,
)

_RUNTIME = Placement.model_fields["runtime"]


class Scheduling(BaseModel):
    """What is fixed when the pipeline is compiled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shared_memory: str = Field(
        default="16Gi", description="size of /dev/shm in train pods; empty = the runtime's 64 MiB"
    )
    retries: int = Field(default=2, ge=0, description="how often a failed task is tried again")
    retry_backoff: str = Field(default="60s", description="pause before the first retry; doubled each time")
    timeout_hours: float = Field(default=24, gt=0, description="a task that runs longer is failed")
    nodes: int = Field(
        default=1, gt=0, description="pods of each training stage, as a TrainJob of Kubeflow Trainer if more than one"
    )
    runtime: str = Field(default=_RUNTIME.default, description=f"of TrainJobs: {_RUNTIME.description}")
    loop_resources: dict[str, str] = Field(
        default={"gpu_count": "1", "gpu_type": "nvidia.com/gpu", "memory": "0", "cpu": "0"},
        description="what pods with a model ask for inside a ParallelFor, where run-time parameters do not reach",
    )
    cache_claim: str = Field(
        default="", description="volume claim in which pods with a model keep what they fetch; empty = none is mounted"
    )
    cache_size: str = Field(default="100GiB", description="how much is kept there; not more than the claim has")
    pull_policy: str = Field(default="IfNotPresent", description="Always, IfNotPresent or Never")
    pull_secrets: list[str] = Field(default=[], description="secrets with a registry's credentials")
    secret_keys: list[str] = Field(
        default=[*_SECRET_KEYS], description="keys of the secret that become environment variables of the same name"
    )
    secret_optional: bool = Field(
        default=True,
        description="whether the secret and each of its keys may be absent; KFP before 2.15 does not know: false there",
    )
    labels: dict[str, str] = Field(
        default=PART_OF,
        description="of every task's pod; the chart's network policy goes by the default, Kueue by its queue-name",
    )
    annotations: dict[str, str] = Field(default={}, description="of every task's pod")
    user: int = Field(default=10001, ge=0, description="numeric user of every task's pod; 0 = the image's, maybe root")
    scratch: str = Field(
        default="",
        description="size of a volume for the temporary files of a pod with a model; empty = none",
    )
    scratch_class: str = Field(default="", description="storage class of that volume; empty = the cluster's default")

    @field_validator("labels")
    @classmethod
    def _with_part_of(cls, given: dict[str, str]) -> dict[str, str]:
        return PART_OF | given


@dataclass(frozen=True)
class RunTime:
    """A run-time parameter: its type, default and help."""

    type: type
    default: Any
    help: str


# The backend reads resource parameters as strings: an integer is silently ignored, and an empty string is no quantity.
RUN_TIME: Mapping[str, RunTime] = {
    "schedule_control_image": RunTime(str, CONTROL, "Image of stages without a model."),
    "schedule_train_image": RunTime(str, TRAIN, "Image of stages with a model."),
    "schedule_sample_image": RunTime(str, TRAIN, "Image of stages that sample; backend=vllm needs one with vLLM."),
    "schedule_gpu_count": RunTime(
        str, "1", "Accelerators per pod that holds a model, all used by training; 0 for none."
    ),
    "schedule_gpu_type": RunTime(str, "nvidia.com/gpu", "Resource name of the accelerator."),
    "schedule_node_selector": RunTime(dict, {}, "Node labels that pods with a model need."),
    "schedule_tolerations": RunTime(list, [], "Tolerations of pods with a model, as in a pod spec."),
    "schedule_affinity": RunTime(dict, {}, "Node affinity of pods with a model, as in a pod spec (nodeAffinity)."),
    "schedule_secret": RunTime(
        str, "posttrain-s3", "Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; may be absent."
    ),
    "schedule_memory": RunTime(str, "0", "Memory request of pods with a model, as 64Gi; 0 for none."),
    "schedule_cpu": RunTime(str, "0", "CPU request of pods with a model, as 8; 0 for none."),
}


def _of_training(name: str) -> RunTime:
    field = TrainSettings.model_fields[name]
    told = str(field.description)
    return RunTime(cast(type, field.annotation), field.default, f"{told[0].upper()}{told[1:]}.")


# What every training stage of a pipeline is told; a stage's own settings win.
CHECKPOINTS: Mapping[str, RunTime] = {name: _of_training(name) for name in SHARED_SETTINGS}


def read_scheduling(path: Path | None) -> Scheduling:
    """A scheduling file (YAML), or the defaults.

    Raises:
        ConfigError: the file is missing, not YAML, or has an unknown or wrong value.
    """
    return validated(Scheduling, read_yaml(path), str(path)) if path else Scheduling()


# What KFP calls backoff_max_duration is the budget of all attempts from the start of the first: its default of an hour
# would end every retry of a longer stage.
_THIRTY_DAYS = 30 * 24 * 3600

_CACHE = "/var/cache/posttrain"


def run_time(trains: bool) -> dict[str, RunTime]:
    """The pipeline parameters that every pipeline has; those of checkpoints if any of its stages trains."""
    return {**(CHECKPOINTS if trains else {}), **RUN_TIME}


def parameters(trains: bool) -> list[inspect.Parameter]:
    """`run_time` as parameters of a function."""
    kind, declared = inspect.Parameter.POSITIONAL_OR_KEYWORD, run_time(trains)
    return [inspect.Parameter(name, kind, default=r.default, annotation=r.type) for name, r in declared.items()]


def checkpoints(stage: Stage[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments about checkpoints of a stage's component: none if it keeps none."""
    return {name: values[name] for name in CHECKPOINTS} if keeps_checkpoints(stage) else {}


def spread(stage: Stage[Any], scheduling: Scheduling, values: Mapping[str, Any]) -> dict[str, Any]:
    """The argument `nodes` of a component that trains, or runs what does, where more nodes than one are to do it.

    It says what a training stage's own pod does not hold while it waits for them; all else they have as it has.
    Run-time parameters are put into its texts by KFP's launcher, so only such as hold no quotes can be among them.
    """
    if scheduling.nodes == 1 or not (stage.trains or "nodes" in stage.settings.model_fields):
        return {}
    fixed = {"nodes", "runtime", "shared_memory", "scratch", "scratch_class", "labels"}
    asked = {name: f"{values[f'schedule_{name}']}" for name in ("gpu_type", "cpu", "memory")}
    asked |= {"gpus": f"{values['schedule_gpu_count']}"}
    deadline = {"deadline_hours": scheduling.timeout_hours}
    return {"nodes": scheduling.model_dump(include=fixed) | deadline | asked}


def in_loop(scheduling: Scheduling, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values for tasks inside a ParallelFor: parameters used only for resources do not reach them."""
    fixed = {f"schedule_{name}": value for name, value in scheduling.loop_resources.items()}
    placement: dict[str, Any] = {"schedule_node_selector": {}, "schedule_tolerations": [], "schedule_affinity": {}}
    return {**values, **placement, **fixed}


def schedule(task: dsl.PipelineTask, stage: Stage[Any], scheduling: Scheduling, values: Mapping[str, Any]) -> None:
    """Apply everything to one task of a stage; `values` are the pipeline's parameters by name.

    Where other pods do its work (`spread`), it holds no more than it needs to wait.
    """
    # A pipeline's result depends on what lies behind its URIs, which KFP's cache key does not see.
    task.set_caching_options(False)
    task.set_container_image(values[f"schedule_{stage.image}_image"])
    if scheduling.retries:
        budget = f"{_THIRTY_DAYS}s"
        task.set_retry(scheduling.retries, scheduling.retry_backoff, backoff_factor=2.0, backoff_max_duration=budget)
    kubernetes.set_timeout(task, int(scheduling.timeout_hours * 3600))
    kubernetes.set_image_pull_policy(task, scheduling.pull_policy)
    if scheduling.pull_secrets:
        kubernetes.set_image_pull_secrets(task, scheduling.pull_secrets)
    for key, value in scheduling.labels.items():
        kubernetes.add_pod_label(task, key, value)
    for key, value in scheduling.annotations.items():
        kubernetes.add_pod_annotation(task, key, value)
    if scheduling.user:
        kubernetes.set_security_context(task, run_as_user=scheduling.user, run_as_non_root=True)
    keys = {key: key for key in scheduling.secret_keys}
    kubernetes.use_secret_as_env(task, values["schedule_secret"], keys, optional=True)
    if not scheduling.secret_optional:
        for secret in task.platform_config["kubernetes"]["secretAsEnv"]:
            del secret["optional"]  # false would be written, too, and an old backend refuses the field itself
    if stage.image == "train":
        # KFP tells a pod nothing of its run but by this annotation, and a tracked run is to be found by its name.
        kubernetes.use_field_path_as_env(task, RUN_VARIABLE, "metadata.annotations['pipelines.kubeflow.org/run_name']")
    if stage.image != "control":
        _place_model(task, scheduling, values)
        if scheduling.nodes == 1 or not stage.trains:
            _provide(task, scheduling, values)


def _place_model(task: dsl.PipelineTask, scheduling: Scheduling, values: Mapping[str, Any]) -> None:
    if values["schedule_node_selector"] != {}:
        kubernetes.add_node_selector_json(task, values["schedule_node_selector"])
    if values["schedule_tolerations"] != []:
        kubernetes.add_toleration_json(task, values["schedule_tolerations"])
    if values["schedule_affinity"] != {}:
        kubernetes.add_node_affinity_json(task, values["schedule_affinity"])
    if scheduling.cache_claim:
        kubernetes.mount_pvc(task, scheduling.cache_claim, _CACHE)
        task.set_env_variable(cache.DIRECTORY, _CACHE)
        task.set_env_variable(cache.SIZE, scheduling.cache_size)


def _provide(task: dsl.PipelineTask, scheduling: Scheduling, values: Mapping[str, Any]) -> None:
    task.set_cpu_request(values["schedule_cpu"])
    task.set_memory_request(values["schedule_memory"])
    task.set_accelerator_type(values["schedule_gpu_type"])
    task.set_accelerator_limit(values["schedule_gpu_count"])
    if scheduling.scratch:
        modes, storage_class = ["ReadWriteOnce"], scheduling.scratch_class or None
        kubernetes.add_ephemeral_volume(task, "scratch", SCRATCH, modes, scheduling.scratch, storage_class)
        task.set_env_variable("TMPDIR", SCRATCH)
    if scheduling.shared_memory:
        # NCCL and data loaders need more than the runtime's 64 MiB.
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=scheduling.shared_memory)
