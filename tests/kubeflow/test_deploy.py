"""Deployments: what differs is changed, what fails half-way is mended, and nothing is doubled or lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from posttrain.errors import ConfigError, ServerError
from posttrain.kubeflow.connection import Connection, Server
from posttrain.kubeflow.deploy import Deployer
from posttrain.kubeflow.deployment import Deployment, Package
from posttrain.storage import retries
from tests.kubeflow.server import Kept, serving

PARAMETERS = {
    "base": {"parameterType": "STRING"},
    "rounds": {"parameterType": "NUMBER_INTEGER", "defaultValue": 3, "isOptional": True},
    "settings_rl": {"parameterType": "STRUCT", "defaultValue": {}, "isOptional": True},
}


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Kept]]:
    monkeypatch.setattr(retries, "LONGEST", 0.01)  # seconds between tries
    with serving() as (url, kept):
        yield Server(Connection(endpoint=url, patience=20)), kept


def package(name: str = "improve", said: str = "one") -> Package:
    spec = {"pipelineInfo": {"name": name}, "root": {"dag": said, "inputDefinitions": {"parameters": PARAMETERS}}}
    return Package(name, "Improves", yaml.safe_dump(spec))


def wanted(release: str = "posttrain", pipelines: tuple[str, ...] = ("improve",), **schedules: Any) -> Deployment:
    return Deployment.model_validate(
        {"release": release, "pipelines": {name: {} for name in pipelines}, "schedules": schedules}
    )


def nightly(cron: str = "0 0 2 * * *", **other: Any) -> dict[str, Any]:
    return {"pipeline": "improve", "cron": cron, "parameters": {"base": "s3://models/base"}, **other}


def apply(server: Server, deployment: Deployment, *packages: Package, dry: bool = False) -> dict[str, str]:
    made = Deployer(server, deployment, packages or [package()], dry).apply()
    return {f"{change.kind} {change.name}": change.action for change in made}


def test_the_first_time_all_is_made_and_the_second_nothing(there: tuple[Server, Kept]) -> None:
    server, kept = there
    deployment = wanted(nightly=nightly())
    assert set(apply(server, deployment).values()) == {"create"}
    [recurring] = kept.things["recurringruns"]
    assert recurring["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * *"}}
    assert recurring["runtime_config"]["parameters"] == {"base": "s3://models/base"}
    assert recurring["pipeline_version_reference"] == {"pipeline_id": kept.things["pipelines"][0]["pipeline_id"]}
    assert (recurring["mode"], recurring["max_concurrency"], recurring["no_catchup"]) == ("ENABLE", "1", True)
    kept.asked.clear()
    assert set(apply(server, deployment).values()) == {"same"}
    assert {asked.split()[0] for asked in kept.asked} == {"GET"}


def test_a_dry_run_says_what_differs_and_changes_nothing(there: tuple[Server, Kept]) -> None:
    server, kept = there
    apply(server, wanted(nightly=nightly()))
    kept.asked.clear()
    changed = Deployer(server, wanted(weekly=nightly()), [package(said="two")], dry=True)
    changes = {change.name: change for change in changed.apply()}
    assert {name: change.action for name, change in changes.items()} == {
        "improve": "update",
        "weekly": "create",
        "nightly": "delete",
    }
    assert '~ root.dag: "one" → "two"' in changes["improve"].details
    assert {asked.split()[0] for asked in kept.asked} == {"GET"}


def test_what_differs_is_named_by_where_it_is(there: tuple[Server, Kept]) -> None:
    tasks = {"sft": {"steps": 3.0, "code": "a" * 90}, "old": {}}
    changed = {"sft": {"steps": 3, "code": "b" * 90}, "new": {"after": ["sft"]}}
    limits = {"platforms": {"kubernetes": {"sft": {"deadline": "60"}}}}
    longer = {"platforms": {"kubernetes": {"sft": {"deadline": "90"}}}}
    server, _ = there
    apply(server, wanted(), of(tasks, limits))
    [change] = Deployer(server, wanted(), [of(changed, longer)], dry=True).apply()
    assert change.details[1:] == (
        '~ platforms.kubernetes.sft.deadline: "60" → "90"',
        '+ root.dag.new: {"after": ["sft"]}',
        "- root.dag.old: {}",
        f'~ root.dag.sft.code: "{"a" * 59}… (92 characters) → "{"b" * 59}… (92 characters)',
    )


def of(tasks: dict[str, Any], platforms: dict[str, Any]) -> Package:
    spec = {"pipelineInfo": {"name": "improve"}, "root": {"dag": tasks}}
    return Package("improve", "Improves", yaml.safe_dump_all([spec, platforms]))


def test_content_that_returns_becomes_the_newest_again(there: tuple[Server, Kept]) -> None:
    server, kept = there
    for said in ("one", "two", "one"):
        apply(server, wanted(), package(said=said))
    names = kept.named("versions")
    assert names == [package(said="one").version, package(said="two").version, f"{package(said='one').version}-2"]
    assert apply(server, wanted(), package(said="one")) == {"pipeline improve": "same"}


def test_another_schedule_replaces_and_a_paused_one_stays_paused(there: tuple[Server, Kept]) -> None:
    server, kept = there
    apply(server, wanted(nightly=nightly()))
    kept.things["recurringruns"][0]["mode"] = "DISABLE"
    apply(server, wanted(nightly=nightly()))
    assert kept.things["recurringruns"][0]["mode"] == "DISABLE"
    assert apply(server, wanted(nightly=nightly("0 0 3 * * *")))["recurring run nightly"] == "update"
    [recurring] = kept.things["recurringruns"]
    assert recurring["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"


def test_a_recurring_run_whose_run_is_at_work_goes_later(there: tuple[Server, Kept]) -> None:
    """Kubernetes would remove the run's pods with it."""
    server, kept = there
    apply(server, wanted(nightly=nightly()))
    [old] = kept.things["recurringruns"]
    kept.things["runs"] = [{"run_id": "r", "recurring_run_id": old["recurring_run_id"], "state": "RUNNING"}]
    changed = wanted(nightly=nightly("0 0 3 * * *"))
    assert apply(server, changed, dry=True)["recurring run nightly"] == "update"
    assert apply(server, changed)["recurring run nightly"] == "update"
    assert [each["mode"] for each in kept.things["recurringruns"]] == ["DISABLE", "ENABLE"]
    assert apply(server, changed)["recurring run nightly"] == "same"
    # Back to what the old one says: it is switched off, and so not the one in force.
    assert apply(server, wanted(nightly=nightly()))["recurring run nightly"] == "update"
    assert [each["mode"] for each in kept.things["recurringruns"]] == ["DISABLE", "ENABLE"]
    assert apply(server, wanted())["recurring run nightly"] in ("delete", "disable")
    assert kept.things["recurringruns"] == [old]
    kept.things["runs"][0]["state"] = "SUCCEEDED"
    assert apply(server, wanted())["recurring run nightly"] == "delete"
    assert kept.things["recurringruns"] == []


def test_what_is_wanted_no_more_goes_and_what_is_others_stays(there: tuple[Server, Kept]) -> None:
    server, kept = there
    apply(server, wanted(release="other", pipelines=("theirs",)), package("theirs"))
    server.create_pipeline("by-hand", "made in the UI")
    apply(server, wanted(nightly=nightly()))
    apply(server, wanted(pipelines=()), package("kept"))
    assert (kept.named("pipelines"), kept.named("recurringruns")) == (["theirs", "by-hand", "kept"], [])
    list(Deployer(server, wanted(pipelines=()), []).remove())
    assert kept.named("pipelines") == ["theirs", "by-hand"]
    assert kept.named("versions") == [package("theirs").version]


def test_a_hundred_upserts_between_errors_leave_one_recurring_run_each(there: tuple[Server, Kept]) -> None:
    server, kept = there
    kept.failing = 0.2
    names, dice = [f"job-{number}" for number in range(4)], random.Random(1)
    last: dict[str, str] = {}
    for _ in range(25):
        last = {name: f"0 {dice.randrange(60)} 2 * * *" for name in names}
        apply(server, wanted(**{name: nightly(cron) for name, cron in last.items()}))
        assert sorted(kept.named("recurringruns")) == names
    assert {r["display_name"]: r["trigger"]["cron_schedule"]["cron"] for r in kept.things["recurringruns"]} == last


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"base": "b", "bose": "x"}, "no parameter 'bose'; did you mean 'base'?"),
        ({}, "needs base"),
        ({"base": 3}, "base: 3 is int instead of str; quote it"),
        ({"base": "b", "settings_rl": "{"}, "settings_rl: '{' is no dict"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused_before_anything_is_changed(
    there: tuple[Server, Kept], parameters: dict[str, Any], complaint: str
) -> None:
    server, kept = there
    with pytest.raises(ConfigError, match=r"schedules\.nightly\.parameters: ") as refused:
        apply(server, wanted(nightly=nightly() | {"parameters": parameters}))
    assert complaint in str(refused.value)
    assert kept.asked == []


@pytest.mark.parametrize(
    ("status", "said", "mention"),
    [
        (401, "who?", "POSTTRAIN_KFP_TOKEN"),
        (403, "no", "bind them to a role"),
        (404, "Not Found", "KF_PIPELINES_ENDPOINT"),
    ],
)
def test_a_refusal_is_one_line_with_the_remedy(
    there: tuple[Server, Kept], status: int, said: str, mention: str
) -> None:
    server, kept = there
    kept.refusal = (status, said)
    with pytest.raises(ConfigError, match=f"{status}: .*{said}.*{mention}") as refused:
        apply(server, wanted())
    assert "\n" not in str(refused.value)


def test_a_server_that_is_not_there_is_a_fault_that_may_pass() -> None:
    server = Server(Connection(endpoint="http://127.0.0.1:9", patience=0.3))
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9: .*is it up.*tried \d+ times") as away:
        apply(server, wanted())
    assert str(away.value).count("tried") == 1, "it was waited for twice"
