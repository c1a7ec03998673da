"""A training stage on more nodes than one: this pod lays its parents out, has a TrainJob do the work, takes the result.

The nodes' pods are made after this one: image, secrets, service account, placement. What this pod must not hold itself
while it waits (accelerators, processor, memory, a scratch volume) its component is told as `nodes`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.artifacts.digests import RECORD_FILE, digest_value
from posttrain.artifacts.record import Record, by_reference, read_record
from posttrain.errors import ConfigError, StorageError
from posttrain.kubeflow.cluster import here
from posttrain.kubeflow.trainjobs import run_job
from posttrain.progress import Progress
from posttrain.settings import parse_settings, validated
from posttrain.stage import Stage, checked, execute
from posttrain.storage import read_text
from posttrain.storage.references import STORE_VARIABLE, content_of, put_below, store, take
from posttrain.storage.store import open_store
from posttrain.taxonomy import Kind
from posttrain.training import keeping
from posttrain.training.tracking import RUN_VARIABLE
from posttrain.training.trainjob import Placement, train_job

_NODE_NAME = "workflows.argoproj.io/node-name"
_TRY = re.compile(r"\(\d+\)$")
_FOLDER = "trainjobs"
_MAIN = "main"  # Argo's name for the container that is not its own
_OF_THE_POD = re.compile(r"(ARGO|KFP|METADATA)_|GODEBUG$")  # variables that say what Argo and KFP tell this pod
_RESULT, _PAGE, _PARENTS = "result", "page.html", "parents"


def execute_on_nodes(
    stage: Stage[Any],
    parents: Mapping[str, Sequence[Path]],
    settings: Mapping[str, Any],
    out: Path,
    page: Path,
    nodes: Mapping[str, Any],
) -> Record:
    """Run a stage as `execute` does, but as a TrainJob.

    Args:
        nodes: fields of a `Placement`: how many nodes, and what each is given.

    Raises:
        ConfigError: there is no place that all nodes reach, no cluster, or see `train_job`.
        JobError: the job failed.
        PosttrainError: as `execute`.
    """
    records = {role: [(path, read_record(path, verify=False)) for path in paths] for role, paths in parents.items()}
    given = [each for pairs in records.values() for each in pairs]
    if any(record.absent for _, record in given):
        absent = checked(stage, parents, settings, out)[2]
        if absent:
            return execute(stage, parents, settings, out, page)
    elif not any(by_reference(path, record) for path, record in given):
        checked(stage, parents, settings, out)  # before anybody waits for a GPU; the nodes check what lies elsewhere
    chosen = parse_settings(stage.settings, settings, stage.name)
    keeping.check_place(chosen)  # marks it as one for checkpoints, beside which other things may lie then
    shared, cluster = _place(settings, nodes), here()
    pod = cluster.this_pod()
    work = {role: [content_of(record) for _, record in pairs] for role, pairs in records.items()}
    name = job_name(chosen.name or stage.name, task_of(pod), [stage.name, work, settings])
    place, progress = f"{shared}/{name}", Progress(chosen.name or stage.name)
    result = f"{place}/{_RESULT}"
    progress.event("start")
    if read_text(f"{result}/{RECORD_FILE}") is None:
        uris = {role: [put_below(f"{place}/{_PARENTS}", *each) for each in pairs] for role, pairs in records.items()}
        placement, shown = placement_of(pod, nodes), f"{place}/{_PAGE}"
        owners = [owner_of(pod)]
        made = train_job(
            name, cluster.namespace, stage, uris, settings, result, placement, page=shown, once=True, owners=owners
        )
        run_job(cluster, made, progress)
    record = _taken(place, stage.kind_of(chosen), out, page, progress)
    progress.event("done", seconds=record.seconds, metrics=record.metrics)
    return record


def task_of(pod: Mapping[str, Any]) -> str:
    """Which task of which run a pod is a try of: Argo's name for it, without the try's number."""
    metadata = pod["metadata"]
    return _TRY.sub("", metadata.get("annotations", {}).get(_NODE_NAME) or metadata["name"])


def job_name(stage: str, task: str, work: Any) -> str:
    """The name of a TrainJob: the same for each try of a task, another for each task of each run.

    Args:
        task: see `task_of`.
        work: what it is to do, JSON-encodable: a task that follows a recipe has several stages.
    """
    words = re.sub(r"[^a-z0-9]+", "-", stage.lower()).strip("-")
    return f"{words[:32].rstrip('-') or 'stage'}-{digest_value([task, work])[:12]}".lstrip("0123456789-")


def placement_of(pod: Mapping[str, Any], nodes: Mapping[str, Any]) -> Placement:
    """Where a job's pods run, and with what: as this pod, but for what it was told.

    Raises:
        ConfigError: a field of `nodes` is unknown or wrong.
    """
    spec = pod["spec"]
    container = next((each for each in spec["containers"] if each["name"] == _MAIN), spec["containers"][0])
    security = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
    variables = list(_variables(container.get("env", [])))
    found = {
        "image": container["image"],
        "secret": "",
        "env": {each["name"]: each["value"] for each in variables if "value" in each},
        "variables": [each for each in variables if "value" not in each],
        "service_account": spec.get("serviceAccountName", ""),
        "pull_secrets": [each["name"] for each in spec.get("imagePullSecrets", [])],
        "user": security.get("runAsUser", 0),
        "node_selector": spec.get("nodeSelector", {}),
        "tolerations": [each for each in spec.get("tolerations", []) if not _is_clusters(each)],
        "affinity": spec.get("affinity", {}),
        "claims": dict(_claims(spec, container)),
    }
    return validated(Placement, found | dict(nodes), "nodes")


def _is_clusters(toleration: Mapping[str, Any]) -> bool:
    """Kubernetes gives it to every pod by itself."""
    return str(toleration.get("key", "")).startswith("node.kubernetes.io/")


def owner_of(pod: Mapping[str, Any]) -> dict[str, Any]:
    """A reference to a pod: what refers to it is removed with it."""
    return {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}


def _variables(given: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in given:
        if each["name"] == RUN_VARIABLE:
            yield {"name": RUN_VARIABLE, "value": os.environ.get(RUN_VARIABLE, "")}
        elif "fieldRef" not in each.get("valueFrom", {}) and not _OF_THE_POD.match(each["name"]):
            yield {"value": "", **each} if "valueFrom" not in each else dict(each)


def _claims(spec: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    mounted = {each["name"]: each["mountPath"] for each in container.get("volumeMounts", [])}
    for volume in spec.get("volumes", []):
        if "persistentVolumeClaim" in volume and volume["name"] in mounted:
            yield volume["persistentVolumeClaim"]["claimName"], mounted[volume["name"]]


def _place(settings: Mapping[str, Any], nodes: Mapping[str, Any]) -> str:
    """Where what passes between this pod and the nodes lies."""
    place = store() or str(settings.get("checkpoint_uri") or "").rstrip("/")
    if not place:
        raise ConfigError(
            f"nodes={nodes.get('nodes')}: no place that all nodes reach; set checkpoint_uri to s3://bucket/prefix, or "
            f"{STORE_VARIABLE} in the secret"
        )
    return f"{place}/{_FOLDER}"


def _taken(place: str, kind: Kind, out: Path, page: Path, progress: Progress) -> Record:
    record = take(f"{place}/{_RESULT}", kind, out)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(read_text(f"{place}/{_PAGE}") or "", encoding="utf-8")
    # What nobody reads any more would stay for ever. A result by reference is these files, and the next try's too.
    below, gone = open_store(place), f"{_PARENTS}/" if by_reference(out, record) else ""
    try:
        below.delete([entry.name for entry in below.list(gone)])
    except StorageError as error:
        progress.say(f"{place}: not removed ({error})")
    return record
