"""Kubernetes' API as a stage's pod uses it: this pod, TrainJobs, their pods and logs; asked again while it is away."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError, ServerError
from posttrain.kubeflow.connection import Refused, asked, retried
from posttrain.training.trainjob import GROUP, VERSION

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_POD_VARIABLE = "KFP_POD_NAME"  # KFP sets it
_TRAIN_JOBS: dict[str, Any] = {"group": GROUP, "version": VERSION, "plural": "trainjobs"}
_PATIENCE = 600.0  # seconds; the job goes on meanwhile, and may be worth days
_REMEDIES = {
    401: "the pod's service account is not known",
    403: "give the pod's service account the rights of the chart's Role (rbac.trainJobs), or choose one that has them",
    404: "is Kubeflow Trainer 2 installed, with the runtime that scheduling names?",
}


class Cluster:
    """The namespace that this pod is in.

    Every method raises Refused where the server says no, and ServerError where it cannot be reached for `patience`.
    """

    def __init__(self, client: Any, namespace: str, patience: float = _PATIENCE) -> None:
        self.namespace = namespace
        self.patience = patience
        self._client = client

    def this_pod(self) -> dict[str, Any]:
        """The pod that this process is in."""
        return self._plain(self._core.read_namespaced_pod, name=os.environ.get(_POD_VARIABLE) or socket.gethostname())

    def pods(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """The pods that have all the labels."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found: list[dict[str, Any]] = self._plain(self._core.list_namespaced_pod, label_selector=selector)["items"]
        return found

    def log(self, pod: str, container: str, seconds: int | None = None, previous: bool = False) -> list[str]:
        """The lines that a container wrote in the last seconds, each after its time; none before it has started.

        Args:
            seconds: None = all.
            previous: of the one that ended, and was started again in its place.
        """
        since = {} if seconds is None else {"since_seconds": seconds}
        ask = self._core.read_namespaced_pod_log
        try:
            told = self._ask(ask, name=pod, container=container, timestamps=True, previous=previous, **since)
        except Refused as error:
            if error.status in (400, 404):
                return []
            raise
        return str(told).splitlines()

    def job(self, name: str) -> dict[str, Any] | None:
        """A TrainJob, if there is one of that name."""
        try:
            found: dict[str, Any] = self._ask(self._custom.get_namespaced_custom_object, **_TRAIN_JOBS, name=name)
        except Refused as error:
            if error.status == 404:
                return None
            raise
        return found

    def create(self, manifest: Mapping[str, Any]) -> bool:
        """Create a TrainJob; False if there is one of that name already, maybe of an earlier try of this very call."""
        try:
            self._ask(self._custom.create_namespaced_custom_object, **_TRAIN_JOBS, body=dict(manifest))
        except Refused as error:
            if error.status == 409:
                return False
            raise
        return True

    def own(self, name: str, owners: list[dict[str, Any]]) -> None:
        """Have a TrainJob end with other objects than it was to."""
        body = {"metadata": {"ownerReferences": owners}}
        self._ask(self._custom.patch_namespaced_custom_object, **_TRAIN_JOBS, name=name, body=body)

    def delete(self, name: str, patience: float | None = None) -> None:
        """Remove a TrainJob with its pods; what is not there is gone."""
        try:
            self._ask(self._custom.delete_namespaced_custom_object, patience, **_TRAIN_JOBS, name=name)
        except Refused as error:
            if error.status != 404:
                raise

    @property
    def _core(self) -> Any:
        from kubernetes.client import CoreV1Api

        return CoreV1Api(self._client)

    @property
    def _custom(self) -> Any:
        from kubernetes.client import CustomObjectsApi

        return CustomObjectsApi(self._client)

    def _plain(self, ask: Callable[..., Any], **arguments: Any) -> Any:
        """The answer as the API spells it, not as the client's classes do."""
        return self._client.sanitize_for_serialization(self._ask(ask, **arguments))

    def _ask(self, ask: Callable[..., Any], patience: float | None = None, **arguments: Any) -> Any:
        from kubernetes.client.exceptions import ApiException

        host = self._client.configuration.host

        def once() -> Any:
            return asked(ask, host, ApiException, _remedy, namespace=self.namespace, **arguments)

        patience = self.patience if patience is None else patience
        return retried(patience, once, lambda error: isinstance(error, ServerError))


def _remedy(status: int, reason: str) -> str:
    """A webhook that refuses what is asked says 403, too, as if somebody else might have asked it."""
    return "" if "admission webhook" in reason else _REMEDIES.get(status, "")


def here(patience: float = _PATIENCE) -> Cluster:
    """The cluster that this pod is in; outside of one, what KUBECONFIG names.

    Args:
        patience: seconds for which a request that fails is tried again.

    Raises:
        ConfigError: it is in none.
    """
    from kubernetes import client, config

    configuration = client.Configuration()
    configuration.retries = False  # `_ask` tries again
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise ConfigError(
            f"nodes: no cluster to start a TrainJob on ({error}); run it as a task of a pipeline"
        ) from None
    namespace = _NAMESPACE.read_text(encoding="utf-8") if _NAMESPACE.is_file() else "default"
    return Cluster(client.ApiClient(configuration), namespace.strip(), patience)
