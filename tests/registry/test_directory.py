"""The registry on a disk and on a real S3 server: versions, and retries of what died half-way."""

import json

import pytest

from posttrain.artifacts.record import read_record
from posttrain.errors import DataError, StorageError
from posttrain.registry import directory
from posttrain.storage import fetch, read_text, write_text
from tests.registry.conftest import WHEN

pytestmark = pytest.mark.xdist_group("s3")


def fetched(registry, version, tmp_path):
    return read_record(fetch(registry.policy_uri("student", version), tmp_path / f"fetched{version}")).digest


def dies(*arguments):
    raise StorageError("gone")


def test_versions_count_up_and_each_is_whole(registry, tmp_path, policies, passed):
    assert (registry.index("student").champion, registry.models()) == (None, [])
    for number, policy in enumerate(policies, start=1):
        version = registry.register("student", policy, passed, WHEN).version
        assert (version.version, version.digest, version.decision) == (number, policy.digest, passed.digest)
        assert (version.registered, version.metrics) == (WHEN, {"gain_pass_1": 0.25})
        assert (version.verdict, version.reason) == ("pass", "gain in pass@1 +0.250")
        assert fetched(registry, number, tmp_path) == policy.digest
    assert [version.version for version in registry.index("student").versions] == [1, 2, 3]
    assert registry.index("other").versions == []
    assert registry.models() == ["student"]


def test_a_known_policy_keeps_its_version(registry, policies, passed):
    for policy in (*policies, policies[0]):
        change = registry.register("student", policy, passed, WHEN)
    assert (change.version.version, change.promoted, change.why_not) == (1, True, "")
    index = registry.index("student")
    assert [version.version for version in index.versions] == [1, 2, 3]
    assert [promotion.version for promotion in index.promotions] == [1]


def test_the_index_is_json_that_people_can_read(registry, policies, passed):
    registry.register("student", policies[0], passed, WHEN)
    text = read_text(f"{registry.uri}/student/index.json")
    assert json.loads(text)["champion"] == 1
    assert text.endswith("}\n")
    assert "\n " in text


def test_what_is_no_index_is_said_to_be_none(registry):
    write_text(f"{registry.uri}/student/index.json", '{"model": "student", "champions": 1}')
    with pytest.raises(DataError, match=r"student/index.json: no index .*; put an earlier copy back"):
        registry.champion("student")


def test_an_index_from_before_promotions_were_kept(registry):
    versions = [{"version": n, "digest": str(n), "decision": "d", "registered": str(WHEN)} for n in (1, 2, 3)]
    write_text(
        f"{registry.uri}/student/index.json", json.dumps({"model": "student", "champion": 2, "versions": versions})
    )
    assert registry.champion("student").version == 2
    assert registry.roll_back("student").after.version == 3  # v2 was registered again after it
    assert registry.roll_back("student").after.version == 1


def test_a_run_that_died_while_uploading_is_taken_over_by_its_retry(registry, tmp_path, policies, passed, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(directory, "publish_artifact", dies)
        with pytest.raises(StorageError):
            registry.register("student", policies[0], passed, WHEN)
    assert registry.index("student").versions == []
    other = registry.register("student", policies[1], passed, WHEN).version
    again = registry.register("student", policies[0], passed, WHEN).version
    assert (again.version, other.version) == (1, 2)
    for number, policy in enumerate(policies[:2], start=1):
        assert fetched(registry, number, tmp_path) == policy.digest
    assert registry.index("student").uploading == {}


def test_a_run_that_died_after_uploading_sends_nothing_again(registry, policies, passed, monkeypatch):
    original, published, swaps = directory.publish_artifact, [], []
    monkeypatch.setattr(directory, "publish_artifact", lambda *each: (published.append(each), original(*each)))
    with monkeypatch.context() as patched:
        exchange = registry._exchange
        patched.setattr(
            registry, "_exchange", lambda *each: dies() if swaps else (swaps.append(each), exchange(*each))[1]
        )
        with pytest.raises(StorageError):
            registry.register("student", policies[0], passed, WHEN)
    change = registry.register("student", policies[0], passed, WHEN)
    assert (change.version.version, change.promoted, len(published)) == (1, True, 1)


def test_two_runs_that_register_the_same_policy_make_one_version(registry, policies, passed, monkeypatch):
    original = directory.publish_artifact

    def after_another(policy, uri):
        original(policy, uri)
        original(policy, uri)  # on a disk it is refused: something is there

    monkeypatch.setattr(directory, "publish_artifact", after_another)
    assert registry.register("student", policies[0], passed, WHEN).version.version == 1


def test_a_failed_upload_leaves_what_is_registered_alone(registry, policies, passed, monkeypatch):
    registry.register("student", policies[0], passed, WHEN)
    before = registry.index("student")
    monkeypatch.setattr(directory, "publish_artifact", dies)
    with pytest.raises(StorageError):
        registry.register("student", policies[1], passed, WHEN)
    after = registry.index("student")
    assert (after.versions, after.champion, after.promotions) == (before.versions, before.champion, before.promotions)
