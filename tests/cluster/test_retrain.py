"""Nights of a model on a real backend: new data, none, data that cannot be used; and a recurring run that fires."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from posttrain.pipelines.packages import packages

from posttrain.kubeflow.connection import Connection, Server
from posttrain.kubeflow.deploy import Deployer
from posttrain.kubeflow.deployment import Deployment
from posttrain.kubeflow.recurring import mark, marked
from posttrain.kubeflow.runs import submit
from posttrain.kubeflow.webhook import VARIABLE
from posttrain.registry import open_registry
from tests.cluster.backend import BACKEND, BUCKET, NAMESPACE, OPEN, SCHEDULE, SCHEDULING, TINY, Backend, on_cluster
from tests.cluster.conftest import World
from tests.cluster.pods import core

pytestmark = on_cluster(3600)
SHUT = {"gate": {"min_gain": 0.9}}
RELEASE, NAME = "posttrain-nights", "nights-test"
SECRET = f"posttrain-nights-{int(time.time())}"  # and the webhook's pod: what a test that died left does not matter


class Webhook:
    """A pod that answers whoever posts to it, and prints what it was told."""

    SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(204)
        self.end_headers()
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""

    def __init__(self, image: str) -> None:
        container = {"name": "main", "image": image, "command": ["python3", "-c", self.SERVER]}
        spec = {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 0}
        core().create_namespaced_pod(NAMESPACE, {"metadata": {"name": SECRET}, "spec": spec})

    def url(self) -> str:
        until = time.monotonic() + 120
        while not (address := core().read_namespaced_pod(SECRET, NAMESPACE).status.pod_ip):
            assert time.monotonic() < until, "the webhook's pod has no address after two minutes"
            time.sleep(1)
        return f"http://{address}:8080/hook"

    def told(self) -> list[dict[str, Any]]:
        # Preloaded, a log that happens to be JSON would come as Python's repr of it.
        log = core().read_namespaced_pod_log(SECRET, NAMESPACE, _preload_content=False).data.decode()
        return [json.loads(line) for line in log.splitlines()]


class Nights:
    """A model that is trained again and again, and who is told of it."""

    def __init__(self, backend: Backend, world: World, webhook: Webhook) -> None:
        self.backend, self.webhook, self.server = backend, webhook, Server(Connection(endpoint=backend.host))
        self.prefix = f"nights-{int(time.time())}"
        self.rows = {name: (world.folder / f"{name}.jsonl").read_bytes() for name in ("problems", "demos")}
        self.parameters = {
            **{name: world.uris[name] for name in ("base", "held_out")},
            "data": f"s3://{BUCKET}/{self.prefix}/data",
            "registry": f"s3://{BUCKET}/{self.prefix}/registry",
        }

    def deploy(self, schedules: dict[str, Any], settings: dict[str, Any]) -> None:
        images = {f"schedule_{kind}_image": self.backend.image for kind in ("train", "sample")}
        images |= {"schedule_control_image": self.backend.control}
        tiny = {room: TINY[room] for room in ("sft", "rollout", "evaluate")}
        wanted = Deployment(
            release=RELEASE,
            scheduling={**SCHEDULING, "secret_keys": [*SCHEDULING["secret_keys"], VARIABLE]},
            defaults={**SCHEDULE, **images, "schedule_secret": SECRET},
            pipelines={NAME: {"recipe": "sft-replay", "retrain": True, "settings": tiny | settings}},  # type: ignore[dict-item]
            schedules=schedules,
        )
        list(Deployer(self.server, wanted, packages(wanted, "nights")).apply())

    def arrives(self, name: str, **broken: bytes) -> None:
        for stem, rows in {**self.rows, **broken}.items():
            self._put(f"{name}/{stem}.jsonl", rows)
        self._put(f"{name}/_SUCCESS", b"")

    def _put(self, name: str, content: bytes) -> None:
        self.backend.client().put_object(Bucket=BUCKET, Key=f"{self.prefix}/data/{name}", Body=content)

    def night(self) -> tuple[str, dict[str, Any]]:
        """A run to its end: its state, and what the webhook was told last."""
        run = submit(self.server, NAME, self.parameters, "nights")
        state, tasks = self.backend.ended(run)
        told = self.webhook.told()
        print(json.dumps(tasks, indent=1), told[-1:])
        return state, told[-1]


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    """The webhook, and a secret that names it beside the object store."""
    assert BACKEND is not None
    api, made = core(), Webhook(BACKEND.control)
    try:
        url = base64.b64encode(made.url().encode()).decode()
        found = api.read_namespaced_secret("posttrain-s3", NAMESPACE).data
        api.create_namespaced_secret(NAMESPACE, {"metadata": {"name": SECRET}, "data": {**found, VARIABLE: url}})
        yield made
        api.delete_namespaced_secret(SECRET, NAMESPACE)
    finally:
        api.delete_namespaced_pod(SECRET, NAMESPACE)


@pytest.fixture(scope="module")
def nights(webhook: Webhook, world: World) -> Iterator[Nights]:
    assert BACKEND is not None
    made = Nights(BACKEND, world, webhook)
    made.deploy({}, OPEN)
    yield made
    list(Deployer(made.server, Deployment(release=RELEASE), []).remove())


def test_new_data_makes_a_champion(nights: Nights) -> None:
    nights.arrives("2026-01-01")
    state, told = nights.night()
    assert (state, told["event"], told["champion"], told["data"][:10]) == ("SUCCEEDED", "registered", 1, "2026-01-01")


def test_without_new_data_nothing_is_trained(nights: Nights) -> None:
    state, told = nights.night()
    assert (state, told["event"], told["version"]) == ("SUCCEEDED", "registered", 1)  # the webhook was not told again


def test_the_next_night_starts_from_the_champion_and_a_refusal_leaves_it(nights: Nights) -> None:
    nights.deploy({}, SHUT)
    nights.arrives("2026-01-02")
    state, told = nights.night()
    assert (state, told["event"], told["champion"]) == ("SUCCEEDED", "fail", 1)
    assert "gain in pass@1" in told["reason"]
    assert len(open_registry(nights.parameters["registry"]).index("model").versions) == 1


def test_data_that_cannot_be_used_is_told_of_with_its_reason(nights: Nights) -> None:
    nights.arrives("2026-01-03", problems=b"{]\n" * 40)
    state, told = nights.night()
    assert (state, told["event"], told["champion"]) == ("FAILED", "ended early", 1)
    assert "DataError" in told["reason"]


def test_a_recurring_run_fires(nights: Nights) -> None:
    parameters = {**nights.parameters, "data": nights.parameters["data"] + "/none-yet"}
    nights.deploy({"every-minute": {"pipeline": NAME, "every_seconds": 60, "parameters": parameters}}, SHUT)
    [recurring] = marked(nights.server.recurring_runs(), mark(RELEASE))
    until = time.monotonic() + 300
    while not (fired := [r for r in nights.server.runs(20) if r.recurring_run_id == recurring.recurring_run_id]):
        assert time.monotonic() < until, "no run started in five minutes"
        time.sleep(5)
    nights.deploy({}, SHUT)
    assert nights.backend.ended(fired[0].run_id)[0] == "SUCCEEDED"
