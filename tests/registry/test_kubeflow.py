"""What a Kubeflow Model Registry is told, and what becomes of it when it fails. tests/cluster has the real server."""

import json
import re

import pytest

from posttrain.errors import ConfigError, ContractError, ServerError
from posttrain.registry import open_registry
from posttrain.registry.kubeflow import KubeflowRegistry
from posttrain.registry.server import Server
from tests.registry.conftest import WHEN, decided
from tests.registry.fake import serving

pytest.importorskip("model_registry", reason="needs the extra model-registry")


@pytest.fixture
def server():
    with serving() as fake:
        yield fake


@pytest.fixture
def registry(server, tmp_path):
    return told_by(server, tmp_path)


def told_by(server, tmp_path, patience=5, **environment):
    return KubeflowRegistry(str(tmp_path / "registry"), Server(server.url, environment, patience))


def listed(registry):
    """Version → whether it is the champion, and the URIs of its artifacts."""
    there = registry._server
    model = there.model("student")
    return {
        version.name: (
            version.custom_properties.get("posttrain_champion"),
            [artifact.uri for artifact in there.artifacts(version)],
        )
        for version in there.versions(model)
    }


def expected(registry, *champions):
    return {f"v{n}": (mark, [registry.policy_uri("student", n)]) for n, mark in enumerate(champions, start=1)}


def once(status, when, what):
    """A fault that happens one time."""
    left = [status]
    return lambda at, asked: (left.pop(), "no healthy upstream") if left and (at, asked) == (when, what) else None


def test_versions_and_the_champion_are_listed(registry, policies, passed, proven):
    registry.register("student", policies[0], passed, WHEN)
    registry.register("student", policies[1], proven(policies[0]), WHEN)
    registry.register("student", policies[2], passed, WHEN)
    assert listed(registry) == expected(registry, False, True, False)
    registry.roll_back("student")
    assert listed(registry) == expected(registry, True, False, False)
    assert registry._server.model("student").custom_properties == {
        "posttrain_champion": "v1",
        "posttrain_registry": registry.uri,
    }


def test_a_version_says_what_it_is(registry, policies, proven):
    registry.register("student", policies[1], proven(policies[0]), WHEN)
    version = registry._server.versions(registry._server.model("student"))[0]
    told = {key.removeprefix("posttrain_"): value for key, value in version.custom_properties.items()}
    family = json.loads(told.pop("lineage"))
    assert [(each["method"], each["digest"]) for each in family] == [("supplied", policies[1].digest)]
    del told["decision"]
    assert told == {
        "digest": policies[1].digest,
        "method": "supplied",
        "parents": "[]",
        "registered": WHEN.isoformat(),
        "verdict": "pass",
        "reason": "gain in pass@1 +0.250",
        "compared_with": policies[0].digest,
        "gate_gain_pass_1": 0.25,
        "champion": True,
    }


def test_registering_again_changes_nothing_there(registry, server, policies, passed):
    registry.register("student", policies[0], passed, WHEN)
    server.asked.clear()
    registry.register("student", policies[0], passed, WHEN)
    assert {asked.split()[0] for asked in server.asked} == {"GET"}


@pytest.mark.parametrize("what", ["POST registered_models", "POST model_versions", "POST artifacts"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_answer_that_was_lost_makes_nothing_twice(registry, server, policies, passed, when, what):
    server.fault = once(503, when, what)
    registry.register("student", policies[0], passed, WHEN)
    assert listed(registry) == expected(registry, True)
    assert [len(things) for things in server.things.values()] == [1, 1, 1]


@pytest.mark.parametrize("by", ["its retry", "hand"])
def test_what_a_run_left_half_told_is_completed(server, tmp_path, policies, passed, by):
    server.fault = lambda when, what: (503, "no healthy upstream") if what == "POST artifacts" else None
    impatient = told_by(server, tmp_path, patience=0)
    with pytest.raises(ServerError, match="503: no healthy upstream"):
        impatient.register("student", policies[0], passed, WHEN)
    assert listed(impatient) == {"v1": (None, [])}
    server.fault = lambda when, what: None
    if by == "hand":
        impatient.roll_back("student", to=1)
    else:
        impatient.register("student", policies[0], passed, WHEN)
    assert listed(impatient) == expected(impatient, True)


def test_a_server_that_comes_later_is_told_of_the_versions_before(registry, policies, passed, proven):
    open_registry(registry.uri).register("student", policies[0], passed, WHEN)
    registry.register("student", policies[1], proven(policies[0]), WHEN)
    assert listed(registry) == expected(registry, False, True)


def test_two_that_tell_at_once_agree(server, registry, policies, passed, proven, monkeypatch):
    """The first is overtaken between what it reads of the index and what it tells."""
    registry.register("student", policies[0], passed, WHEN)
    tell = KubeflowRegistry._tell_of

    def late(self, index):
        monkeypatch.undo()
        registry.register("student", policies[1], proven(policies[0]), WHEN)
        tell(self, index)

    monkeypatch.setattr(KubeflowRegistry, "_tell_of", late)
    registry.register("student", policies[2], passed, WHEN)
    assert listed(registry) == expected(registry, False, False, True)


def test_what_others_have_written_stays(registry, policies, passed, proven):
    registry.register("student", policies[0], passed, WHEN)
    there = registry._server
    version = there.versions(there.model("student"))[0]
    owned = {**version.custom_properties, "owner": "us"}
    there.put_version(there.model("student"), id=version.id, name="v1", custom_properties=owned)
    registry.register("student", policies[1], proven(policies[0]), WHEN)
    assert there.versions(there.model("student"))[0].custom_properties == {**owned, "posttrain_champion": False}


def test_a_name_that_another_registry_uses_is_refused_before_anything_is_sent(registry, server, tmp_path, policies):
    registry.register("student", policies[0], decided(tmp_path / "first"), WHEN)
    other = KubeflowRegistry(str(tmp_path / "other"), registry._server)
    with pytest.raises(ContractError) as raised:
        other.register("student", policies[1], decided(tmp_path / "second"), WHEN)
    assert str(raised.value) == (
        f"{server.url}: lists a v1 of 'student' ({policies[0].digest[:12]}) which {other.uri} does not have; "
        "choose another model name"
    )
    assert other.models() == []


def test_a_wrong_token_is_one_line_without_it(server, tmp_path, policies, passed):
    server.token = "right"
    with pytest.raises(ConfigError) as raised:
        told_by(server, tmp_path, POSTTRAIN_MODEL_REGISTRY_TOKEN="wr0ng").register("student", policies[0], passed, WHEN)
    line = str(raised.value)
    assert line.startswith(
        f"{server.url}: 401: RBAC: access denied; it wants a token: set POSTTRAIN_MODEL_REGISTRY_TOKEN"
    )
    assert "\n" not in line and "wr0ng" not in line
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize("by", ["variable", "file"])
def test_the_token_is_sent(server, tmp_path, policies, passed, by):
    server.token = "right"
    (tmp_path / "token").write_text("right\n")
    given = {"variable": {"TOKEN": "right"}, "file": {"TOKEN_PATH": str(tmp_path / "token")}}[by]
    registry = told_by(server, tmp_path, **{f"POSTTRAIN_MODEL_REGISTRY_{key}": value for key, value in given.items()})
    assert registry.register("student", policies[0], passed, WHEN).promoted


def test_another_api_is_said_to_be_one(server, tmp_path, policies, passed, monkeypatch):
    monkeypatch.setattr("tests.registry.fake.API", re.compile("/api/model_registry/v9/"))
    with pytest.raises(ConfigError, match="404: 404 page not found; no Model Registry with the client's API is there"):
        told_by(server, tmp_path).register("student", policies[0], passed, WHEN)


def test_a_server_that_is_not_there_may_come_back(tmp_path):
    with pytest.raises(ServerError, match=r"127.0.0.1:1: .*; is it up, and is this its URL\?"):
        Server("http://127.0.0.1:1", {}, 0).model("student")


@pytest.mark.parametrize("url", ["model-registry:8080", "ftp://there", "http://me:pa55@there"])
def test_what_is_no_url_is_refused_without_its_password(url):
    with pytest.raises(ConfigError, match="give the server's URL") as raised:
        open_registry("registry", url)
    assert "pa55" not in str(raised.value)
