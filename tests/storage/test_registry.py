"""The registry on a disk and on a real S3 server: versions, champion, and retries of what died half-way."""

import json
from datetime import UTC, datetime

import pytest

from posttrain.artifacts.record import read_record
from posttrain.errors import StorageError
from posttrain.registry import directory
from posttrain.registry.directory import DirectoryRegistry
from posttrain.settings import Settings
from posttrain.stage import Stage, Work, execute
from posttrain.storage import fetch
from posttrain.taxonomy import Kind
from tests.made import artifact
from tests.s3 import BUCKET, s3, s3_server

__all__ = ["s3", "s3_server"]
pytestmark = pytest.mark.xdist_group("s3")

WHEN = datetime(2026, 1, 2, tzinfo=UTC)


def made(path, kind, content):
    def run(settings, parents, out, progress):
        (out / "weights.safetensors").write_bytes(content)
        return Work(metrics={"gain_pass_1": 0.25})

    stage = Stage("base", "policy", kind, {}, Settings, run, method="supplied")
    execute(stage, {}, {}, path)
    return artifact(path, kind)


@pytest.fixture
def policies(tmp_path):
    return [made(tmp_path / f"policy{n}", Kind.POLICY, bytes([n])) for n in range(2)]


@pytest.fixture
def passed(tmp_path):
    return made(tmp_path / "decision", Kind.DECISION, b"pass")


@pytest.fixture(params=["path", "file", "s3"])
def registry(request, tmp_path):
    if request.param == "s3":
        request.getfixturevalue("s3")
        return DirectoryRegistry(f"s3://{BUCKET}/registry/")
    return DirectoryRegistry(f"{'file://' if request.param == 'file' else ''}{tmp_path}/registry/")


def fetched(registry, version, tmp_path):
    return read_record(fetch(registry.policy_uri("student", version), tmp_path / f"fetched{version}")).digest


def test_versions_count_up_and_the_last_is_the_champion(registry, tmp_path, policies, passed):
    assert registry.index("student").champion is None
    for number, policy in enumerate(policies, start=1):
        version = registry.register("student", policy, passed, WHEN)
        assert (version.version, version.digest, version.decision) == (number, policy.digest, passed.digest)
        assert (version.registered, version.metrics) == (WHEN, {"gain_pass_1": 0.25})
        assert registry.index("student").champion == number
        assert fetched(registry, number, tmp_path) == policy.digest
    assert registry.index("other").versions == []


def test_a_known_policy_keeps_its_version_and_becomes_champion_again(registry, policies, passed):
    for policy in (*policies, policies[0]):
        registry.register("student", policy, passed, WHEN)
    index = registry.index("student")
    assert [version.version for version in index.versions] == [1, 2]
    assert index.champion == 1


def test_a_run_that_died_before_the_index_is_taken_over_by_its_retry(registry, tmp_path, policies, passed, monkeypatch):
    def dies(uri, text):
        raise StorageError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(directory, "write_text", dies)
        with pytest.raises(StorageError):
            registry.register("student", policies[0], passed, WHEN)
    assert registry.index("student").versions == []
    other = registry.register("student", policies[1], passed, WHEN)
    again = registry.register("student", policies[0], passed, WHEN)
    assert other.version == 2
    assert fetched(registry, other.version, tmp_path) == policies[1].digest
    assert fetched(registry, again.version, tmp_path) == policies[0].digest
    assert registry.index("student").champion == again.version


def test_the_retry_alone_finds_its_own_version(registry, policies, passed, monkeypatch):
    published = []
    original = directory.publish_artifact
    monkeypatch.setattr(
        directory, "publish_artifact", lambda policy, uri: (published.append(uri), original(policy, uri))
    )
    with monkeypatch.context() as patched:
        patched.setattr(directory, "write_text", lambda uri, text: None)
        registry.register("student", policies[0], passed, WHEN)
    assert registry.register("student", policies[0], passed, WHEN).version == 1
    assert published == [registry.policy_uri("student", 1)]


def test_a_failed_upload_leaves_the_index_alone(registry, policies, passed, monkeypatch):
    registry.register("student", policies[0], passed, WHEN)
    before = registry.index("student")

    def fails(path, uri):
        raise StorageError("gone")

    monkeypatch.setattr(directory, "publish_artifact", fails)
    with pytest.raises(StorageError):
        registry.register("student", policies[1], passed, WHEN)
    assert registry.index("student") == before


def test_the_index_is_json_that_people_can_read(registry, policies, passed):
    registry.register("student", policies[0], passed, WHEN)
    text = directory.read_text(f"{registry.uri}/student/index.json")
    assert json.loads(text)["champion"] == 1
    assert text.endswith("}\n")
    assert "\n " in text
