"""A real Kubeflow Pipelines backend and a real bucket, named by the environment.

POSTTRAIN_CLUSTER            Kubeflow Pipelines' API, as http://10.96.0.88:8888; beside it only KUBECONFIG must be set
POSTTRAIN_CLUSTER_NAMESPACE  where runs are, and the secret `posttrain-s3` with all five keys; default kubeflow
POSTTRAIN_CLUSTER_IMAGE      an image that both control and train stages can run on; default this version's train image
POSTTRAIN_CLUSTER_CONTROL    the image that control stages run on, if that is another one
POSTTRAIN_CLUSTER_S3         an S3 endpoint that pods and this process reach, with keys in AWS_ACCESS_KEY_ID and so on;
                             default what the secret says
"""

from __future__ import annotations

import base64
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from posttrain.components.images import TRAIN

from posttrain.kubeflow.waiting import Waiting
from posttrain.storage.uris import CREDENTIALS
from tests.cluster.pods import core

BUCKET = "posttrain-tests"
NAMESPACE = os.environ.get("POSTTRAIN_CLUSTER_NAMESPACE", "kubeflow")
# No retries that would hide a fault; and nothing that a backend before 2.15 refuses.
SCHEDULING: dict[str, Any] = {
    "retries": 0,
    "shared_memory": "",
    "secret_optional": False,
    "user": 0,
    "secret_keys": [*CREDENTIALS],
}
# Every stage in seconds; and four steps make nothing better, so the gate lets through whatever is not hopeless.
TINY = yaml.safe_load((Path(__file__).parents[2] / "examples/recipes/tiny.yaml").read_text(encoding="utf-8"))
OPEN = {"gate": {"min_gain": -1.0, "max_slice_loss": 1.0, "max_support_loss": 1.0}}
SCHEDULE = {"schedule_gpu_count": "0", "schedule_secret": "posttrain-s3"}


@dataclass(frozen=True)
class Backend:
    """Where to run and where data lies."""

    host: str
    s3: str
    image: str
    control: str

    @classmethod
    def named(cls) -> Backend | None:
        """The backend of the environment, if there is one."""
        host = os.environ.get("POSTTRAIN_CLUSTER", "")
        if not host:
            return None
        if not os.environ.get("POSTTRAIN_CLUSTER_S3"):
            _take_secret()
        s3 = os.environ.get("POSTTRAIN_CLUSTER_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        image = os.environ.get("POSTTRAIN_CLUSTER_IMAGE") or TRAIN
        return cls(host, s3, image, os.environ.get("POSTTRAIN_CLUSTER_CONTROL") or image)

    def images(self) -> dict[str, dict[str, str]]:
        """As the chart's values have them."""
        named = {"control": self.control, "train": self.image, "sample": self.image}
        return {
            kind: dict(zip(("repository", "tag"), name.rsplit(":", 1), strict=True)) for kind, name in named.items()
        }

    def upload(self, folder: Path, prefix: str) -> str:
        """A folder's files under a fresh prefix of the bucket; its URI."""
        client = self.client()
        if BUCKET not in [entry["Name"] for entry in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=BUCKET)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            client.upload_file(str(file), BUCKET, f"{prefix}/{file.relative_to(folder)}")
        return f"s3://{BUCKET}/{prefix}"

    def client(self) -> Any:
        """The bucket's client."""
        import boto3

        return boto3.client("s3", endpoint_url=self.s3, region_name="us-east-1")

    def run(
        self, pipeline: Path, arguments: dict[str, Any], name: str, timeout: int = 3600
    ) -> tuple[str, dict[str, str]]:
        """Run a compiled pipeline to its end.

        Returns:
            The run's state, and every task's by its display name.
        """
        return self.ended(self.start(pipeline, arguments, name), timeout)

    def start(self, pipeline: Path, arguments: dict[str, Any], name: str, account: str = "") -> str:
        """Start a compiled pipeline; returns the run's id."""
        images = {f"schedule_{kind}_image": self.image for kind in ("train", "sample")}
        images["schedule_control_image"] = self.control
        started = self._kfp.create_run_from_pipeline_package(
            str(pipeline),
            arguments={**SCHEDULE, **images, **arguments},
            run_name=f"{name} {int(time.time())}",
            enable_caching=False,
            service_account=account or None,
        )
        return str(started.run_id)

    def ended(self, run: str, timeout: int = 3600) -> tuple[str, dict[str, str]]:
        """Wait for a run's end; see `run`."""
        ended = self._kfp.wait_for_run_completion(run, timeout=timeout)
        tasks = {task.display_name: task.state for task in ended.run_details.task_details or []}
        return ended.state, tasks

    def retry(self, run: str) -> None:
        """As the UI's button Retry does."""
        self._kfp._run_api.run_service_retry_run(run)
        time.sleep(10)  # until the state is not the old one any more

    def terminate(self, run: str) -> None:
        """As the UI's button Terminate does."""
        self._kfp.terminate_run(run)

    @property
    def _kfp(self) -> Any:
        from kfp import Client

        return Client(host=self.host)


def _take_secret() -> None:
    """What pods are told of the object store, into this process's environment; what is set there stays."""
    for name, value in core().read_namespaced_secret("posttrain-s3", NAMESPACE).data.items():
        os.environ.setdefault(name, base64.b64decode(value).decode())


def said(run: str, task: str, mention: str) -> str:
    """What who watches a run is told of a task that waits, once that is mentioned."""
    lines: list[str] = []
    watched = Waiting(run, NAMESPACE, lines.append, patient=0)
    until = time.monotonic() + 600
    while time.monotonic() < until:
        watched.look(pending=True)
        if found := [line for line in lines if line.startswith(f"{task} waits: ") and mention in line]:
            return found[0]
        time.sleep(2)
    raise AssertionError(f"{mention!r} is not said of {task} of run {run} within 10 minutes: {lines}")


BACKEND = Backend.named()


def on_cluster(seconds: int, *more: pytest.MarkDecorator) -> list[pytest.MarkDecorator]:
    """The marks of tests that need the backend, and end within so many seconds each."""
    skipped = pytest.mark.skipif(BACKEND is None, reason="no cluster is named; see tests/cluster/backend.py")
    return [pytest.mark.cluster, skipped, pytest.mark.timeout(seconds), *more]
