"""Mistakes on a real cluster: one line says which and what to do, and what was deployed before is as it was."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from urllib.parse import urlsplit

import pytest
from posttrain.components.catalogue import load_stages
from posttrain.pipelines.compiler import compile_recipe
from posttrain.pipelines.scheduling import Scheduling

from posttrain.kubeflow.connection import Connection, Server
from posttrain.kubeflow.recurring import mark, marked
from posttrain.recipes.load import parse_recipe
from tests.chart.helm import CHART, helm, only
from tests.cluster.backend import BACKEND, SCHEDULING, on_cluster, said
from tests.cluster.objects import apply, kubectl, listed
from tests.kubeflow.server import serving

NAMESPACE = RELEASE = f"posttrain-mistakes-{int(time.time())}"
JOB = f"{RELEASE}-deploy"
pytestmark = on_cluster(1800, pytest.mark.xdist_group("mistakes"))


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert BACKEND is not None
    given = {
        "images": BACKEND.images(),
        "pipelines": only(**{RELEASE: {"recipe": "sft-replay"}}),
        "scheduling": SCHEDULING,
        "networkPolicy": {"enabled": False},  # a policy would hide what a wrong server answers
        "deploy": {"backoffLimit": 0, "patienceSeconds": 3, "activeDeadlineSeconds": 120},
    }
    file = tmp_path_factory.mktemp("mistakes") / "values.json"
    file.write_text(json.dumps(given), encoding="utf-8")
    return file


def told(verb: str, values: Path, *more: str) -> CompletedProcess[str]:
    return helm(verb, RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(values), "--timeout", "5m", *more)


@pytest.fixture(scope="module")
def release(values: Path) -> Iterator[Path]:
    """A release that works."""
    try:
        kubectl("create", "namespace", NAMESPACE)
        done = told("install", values)
        assert done.returncode == 0, done.stderr
        yield values
    finally:
        helm("uninstall", RELEASE, "-n", NAMESPACE, "--wait", "--timeout", "5m")
        kubectl("delete", "namespace", NAMESPACE, "--wait=false", "--ignore-not-found")


def deployed() -> list[str]:
    """The release's versions on Kubeflow Pipelines."""
    assert BACKEND is not None
    server = Server(Connection(endpoint=BACKEND.host))
    pipelines = marked(server.pipelines(), mark(RELEASE))
    return [each.pipeline_version_id for one in pipelines for each in server.versions(one.pipeline_id)]


def line_of_failed_upgrade(values: Path, *more: str) -> str:
    """The one line in the hook's log; what was deployed stayed as it was."""
    before = deployed()
    done = told("upgrade", values, *more)
    assert done.returncode != 0
    assert JOB in done.stderr or "hooks failed" in done.stderr
    [line] = kubectl("logs", "-n", NAMESPACE, f"job/{JOB}").splitlines()
    assert deployed() == before != []
    return line


def test_an_unknown_recipe(release: Path) -> None:
    line = line_of_failed_upgrade(release, "--set", f"pipelines.{RELEASE}.recipe=sft-repaly")
    assert line.startswith(f"error: /etc/posttrain/deployment.yaml: pipelines.{RELEASE}: ")
    assert "did you mean 'sft-replay'?" in line


def test_an_unknown_scheduling_key(release: Path) -> None:
    line = line_of_failed_upgrade(release, "--set", "scheduling.retrys=3")
    assert "scheduling: unknown setting retrys=3; did you mean 'retries'?" in line


def test_an_endpoint_where_nothing_answers(release: Path) -> None:
    line = line_of_failed_upgrade(release, "--set", "kubeflow.endpoint=http://ml-pipelin.kubeflow.svc:8888")
    assert "http://ml-pipelin.kubeflow.svc:8888: " in line and "is it up, and is this its URL?" in line


def test_an_endpoint_that_is_another_servers(release: Path) -> None:
    assert BACKEND is not None
    line = line_of_failed_upgrade(release, "--set", f"kubeflow.endpoint={BACKEND.s3}")
    assert line.startswith(f"error: {BACKEND.s3}: 4")
    assert "check the endpoint" in line or "may not do this" in line


@pytest.mark.parametrize(("status", "mention"), [(401, "the server wants credentials"), (403, "bind them to a role")])
def test_no_permission(release: Path, status: int, mention: str) -> None:
    assert BACKEND is not None
    try:
        played = serving(str(urlsplit(BACKEND.s3).hostname))
        with played as (url, kept):
            kept.refusal = status, "User 'system:serviceaccount:…:deployer' is not authorized"
            line = line_of_failed_upgrade(release, "--set", f"kubeflow.endpoint={url},kubeflow.multiUser=true")
    except OSError:
        pytest.skip("no address of this machine is known to pods; the store's is another's")
    assert f"{status}: User" in line and mention in line


def test_a_namespace_whose_quota_is_spent(release: Path) -> None:
    before, name = deployed(), "posttrain-mistakes"
    meta = {"name": name, "namespace": NAMESPACE}
    apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": {"pods": "0"}}})
    try:
        done = told("upgrade", release, "--set", "deploy.activeDeadlineSeconds=60")
        events = [each["message"] for each in listed("events", NAMESPACE) if each["reason"] == "FailedCreate"]
    finally:
        kubectl("delete", "resourcequota", "-n", NAMESPACE, name)
    assert done.returncode != 0
    assert any("exceeded quota" in message and "pods=0" in message for message in events), events
    assert deployed() == before != []


def test_the_release_is_upgraded_again_after_all_that(release: Path) -> None:
    before = deployed()
    assert told("upgrade", release).returncode == 0
    assert deployed() == before


def test_a_secret_that_is_not_there_is_named_to_who_watches(tmp_path: Path) -> None:
    assert BACKEND is not None
    recipe = """
    name: without-secret
    title: One stage
    inputs: {problems: {help: what is read}}
    stages: {read: {use: prepare, with: {uri: "${problems}", kind: problems}}}
    """
    compile_recipe(parse_recipe(recipe, "without-secret", load_stages()), tmp_path / "p.yaml", Scheduling(**SCHEDULING))
    given = {"problems": "s3://b/p.jsonl", "schedule_secret": "nobodys-secret"}
    run = BACKEND.start(tmp_path / "p.yaml", given, "without-secret")
    try:
        print(said(run, "prepare", 'secret "nobodys-secret" not found'))
    finally:
        BACKEND.terminate(run)
