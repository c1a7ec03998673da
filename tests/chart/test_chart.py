"""The chart: what it renders by default and by each value, and what it refuses."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from posttrain.pipelines.packages import packages

from posttrain import __version__
from posttrain.kubeflow.deployment import Deployment, parameters_of, read_deployment
from tests.chart.helm import CHART, NAMESPACE, helm, one, only, refusal, rendered

GOLDEN = Path(__file__).parent / "golden.yaml"
EVERYTHING: dict[str, Any] = yaml.safe_load((CHART / "ci" / "everything-values.yaml").read_text(encoding="utf-8"))


def deployment(values: dict[str, Any], folder: Path) -> Deployment:
    config = one(rendered(values), "ConfigMap", "deployment")
    file = folder / "deployment.yaml"
    file.write_text(config["data"]["deployment.yaml"], encoding="utf-8")
    return read_deployment(file)


def test_helm_finds_nothing_to_complain_of() -> None:
    ended = helm("lint", "--strict", str(CHART))
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("version", ["1.29", "1.34", "1.37"])
@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_every_object_is_what_kubernetes_takes_without_a_field_it_does_not_know(
    values: dict[str, Any], version: str
) -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="not installed; `make install` does it")
    for each in rendered(values):
        if "kubeflow.org" not in each["apiVersion"]:  # whose own server checks it
            schemas.validate(each, version, strict=True)


def test_the_chart_is_the_librarys_version() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert about["version"] == about["appVersion"] == __version__


def test_the_defaults_render_as_before() -> None:
    text = yaml.safe_dump_all(rendered(), sort_keys=True)
    if os.environ.get("POSTTRAIN_REWRITE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_every_pod_passes_the_restricted_standard_with_a_read_only_root(values: dict[str, Any]) -> None:
    pods = [each["spec"] for each in rendered(values) if each["kind"] == "Pod"]
    pods += [each["spec"]["template"]["spec"] for each in rendered(values) if each["kind"] == "Job"]
    assert len(pods) == (3 if values else 2)
    for pod in pods:
        security = pod["securityContext"]
        assert (
            security["runAsNonRoot"]
            and security["runAsUser"]
            and security["seccompProfile"]["type"] == "RuntimeDefault"
        )
        assert pod["automountServiceAccountToken"] is False
        assert not any("hostPath" in volume for volume in pod["volumes"])
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"] and container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_every_object_is_labelled_and_in_the_releases_namespace(values: dict[str, Any]) -> None:
    for each in rendered(values):
        assert each["metadata"]["namespace"] == NAMESPACE, each["kind"]
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "posttrain"


def test_what_the_hook_reads_compiles_with_the_charts_images_and_secret(tmp_path: Path) -> None:
    pipelines = only(**{"sft-replay": {}, "twice": {"recipe": "improve", "rounds": 1}})
    values = {"pipelines": pipelines, "storage": {"secret": "mine"}, "images": {"registry": "reg.example/m"}}
    wanted = deployment(values, tmp_path)
    compiled = {package.name: parameters_of(package.spec) for package in packages(wanted, "chart")}
    assert set(compiled) == {"sft-replay", "twice"}
    for parameters in compiled.values():
        assert (
            parameters["schedule_train_image"]["defaultValue"] == f"reg.example/m/posttrain/train-python:{__version__}"
        )
        assert parameters["schedule_secret"]["defaultValue"] == "mine"


def test_schedules_get_the_runners_account_and_their_own_values_win(tmp_path: Path) -> None:
    own = {"pipeline": "improve", "every_seconds": 3600, "service_account": "theirs"}
    wanted = deployment({"schedules": {**EVERYTHING["schedules"], "own": own}}, tmp_path)
    assert wanted.schedules["nightly"].service_account == "posttrain-runner"
    assert wanted.schedules["nightly"].parameters == {"base": "s3://b"}
    assert wanted.schedules["own"].service_account == "theirs"


def test_a_digest_wins_over_a_tag() -> None:
    digest = "sha256:" + "a" * 64
    job = one(rendered({"images": {"control": {"repository": "r/c", "tag": "1", "digest": digest}}}), "Job", "deploy")
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == f"r/c@{digest}"


def test_a_multi_user_kubeflow_is_asked_with_a_token_of_its_audience() -> None:
    job = one(rendered({"kubeflow": {"multiUser": True, "tokenAudience": "pipelines.example"}}), "Job", "deploy")
    pod = job["spec"]["template"]["spec"]
    names = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    assert names["POSTTRAIN_KFP_NAMESPACE"] == NAMESPACE
    [token] = [volume["projected"]["sources"][0] for volume in pod["volumes"] if volume["name"] == "token"]
    assert token["serviceAccountToken"]["audience"] == "pipelines.example"
    assert names["KF_PIPELINES_SA_TOKEN_PATH"].endswith("/token")


def test_a_job_that_is_no_hook_has_a_name_for_each_content() -> None:
    def name(**pipelines: Any) -> str:
        objects = rendered({"deploy": {"asHook": False}, "pipelines": pipelines})
        [job] = [each for each in objects if each["kind"] == "Job"]
        assert "annotations" not in job["metadata"]
        return str(job["metadata"]["name"])

    assert name() == name() != name(other={"recipe": "improve"})


def test_what_is_switched_off_is_not_there() -> None:
    off = {
        "deploy": {"enabled": False},
        "rbac": {"create": False},
        "networkPolicy": {"enabled": False},
        "serviceAccount": {"runner": {"create": False}, "deployer": {"create": False}},
    }
    assert [each["kind"] for each in rendered(off)] == ["ConfigMap"]


def test_the_runner_may_start_train_jobs_only_where_it_is_said() -> None:
    groups = lambda values: {g for rule in one(rendered(values), "Role", "runner")["rules"] for g in rule["apiGroups"]}  # noqa: E731
    assert "trainer.kubeflow.org" in groups({})
    assert "trainer.kubeflow.org" not in groups({"rbac": {"trainJobs": False}})


def test_a_training_runtime_keeps_to_the_restricted_standard_and_pipelines_use_it(tmp_path: Path) -> None:
    values = {"trainingRuntime": {"enabled": True, "maxRestarts": 7}, "images": {"registry": "reg.example/m"}}
    runtime = one(rendered(values), "TrainingRuntime", "nodes")
    assert deployment(values, tmp_path).scheduling["runtime"] == f"TrainingRuntime/{runtime['metadata']['name']}"
    job_set = runtime["spec"]["template"]["spec"]
    assert job_set["failurePolicy"]["maxRestarts"] == 7
    pod = job_set["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]
    [container] = pod["containers"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert container["image"].startswith("reg.example/m/posttrain/train-python:")
    assert "runtime" not in deployment({}, tmp_path).scheduling


# Values that make no sense, and what the refusal names.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"imagse": {}}, "imagse"),
    ({"kubeflow": {"endpoint": "ml-pipeline:8888"}}, "kubeflow.endpoint"),
    ({"kubeflow": {"endpoint": "https://me:secret@host"}}, "kubeflow.endpoint"),
    ({"images": {"train": {"repository": "r", "digest": "sha256:1"}}}, "images.train.digest"),
    ({"schedules": {"n": {"pipeline": "improve", "cron": "0 2 * * *"}}}, "schedules.n.cron"),
    ({"schedules": {"n": {"pipeline": "improve"}}}, "schedules.n"),
    ({"pipelines": {"improve": {"rounds": 0}}}, "pipelines.improve.rounds"),
    ({"pipelines": {"Bad_Name": {}}}, "Bad_Name"),
    ({"cache": {"size": "much"}}, "cache.size"),
    ({"networkPolicy": {"storage": {"cidrs": ["anywhere"]}}}, "networkPolicy.storage.cidrs"),
    ({"deploy": {"patienceSeconds": -1}}, "deploy.patienceSeconds"),
    ({"deploy": {"activeDeadlineSeconds": 5}}, "deploy.activeDeadlineSeconds"),
    ({"kubeflow": {"multiUser": "yes"}}, "kubeflow.multiUser"),
    ({"images": {"pullPolicy": "Sometimes"}}, "images.pullPolicy"),
    ({"images": {"pullSecrets": "mine"}}, "images.pullSecrets"),
    ({"pipelines": ["improve"]}, "pipelines"),
    ({"defaults": ["schedule_gpu_count"]}, "defaults"),
    ({"scheduling": "fast"}, "scheduling"),
    ({"experiment": ""}, "experiment"),
    ({"storage": {"secret": "s3://bucket"}}, "storage.secret"),
    ({"storage": {"password": "x"}}, "password"),
    ({"serviceAccount": {"runner": {"name": "Team A"}}}, "serviceAccount.runner.name"),
    ({"rbac": {"trainJobs": "no"}}, "rbac.trainJobs"),
    ({"networkPolicy": {"storage": {"ports": ["https"]}}}, "networkPolicy.storage.ports"),
    ({"networkPolicy": {"dns": {"namespace": ""}}}, "networkPolicy.dns.namespace"),
    ({"networkPolicy": {"kubernetesApi": {"ports": [0]}}}, "networkPolicy.kubernetesApi.ports"),
    ({"quota": {"hard": {"pods": [1]}}}, "quota.hard.pods"),
    ({"limitRange": {"defaultRequest": {"cpu": 1}}}, "limitRange.defaultRequest.cpu"),
    ({"cache": {"accessModes": ["ReadOnlyMany"]}}, "cache.accessModes"),
    ({"trainingRuntime": {"maxRestarts": -1}}, "trainingRuntime.maxRestarts"),
    ({"test": {"parameters": "base=s3://b"}}, "test.parameters"),
]


@pytest.mark.parametrize(("values", "field"), WRONG, ids=[field for _, field in WRONG])
def test_values_that_make_no_sense_are_refused_by_name(values: dict[str, Any], field: str) -> None:
    assert field in refusal(values)


def test_every_top_level_value_has_a_case_above() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert set(schema["properties"]) - {name for values, _ in WRONG for name in values} == {"global"}


def test_every_value_is_commented_used_and_in_the_schema() -> None:
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    schema = yaml.safe_load((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert set(values) == set(schema["properties"]) - {"global"}
    templates = "".join(file.read_text(encoding="utf-8") for file in CHART.rglob("templates/**/*") if file.is_file())
    for section, held in values.items():
        assert re.search(rf"^#.*\n{section}:|^{section}:.*\n  #", text, re.M), f"{section}: no comment"
        for name in held if isinstance(held, dict) and section not in ("pipelines", "quota") else ():
            assert re.search(rf"\b{section}\.{name}\b|\$images\.{name}\b|Values\.{section} \$", templates), (
                f"{section}.{name}"
            )
