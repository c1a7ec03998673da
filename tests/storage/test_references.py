"""Large models pass by reference: the bytes lie once in a store, and nothing that differs from the record is opened."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from posttrain.components.catalogue import load_stage

from posttrain.artifacts.artifact import open_artifact
from posttrain.artifacts.metadata import FILES_KEY, decode
from posttrain.artifacts.record import REFERENCE_FILE, read_record
from posttrain.cli.show import show_lineage
from posttrain.errors import ConfigError, ContractError, DataError, StorageError
from posttrain.registry import open_registry
from posttrain.stage import execute
from posttrain.storage import fetch
from posttrain.storage.cache import DIRECTORY
from posttrain.storage.references import INLINE_VARIABLE, STORE_VARIABLE, hand_on, obtain, reference_at
from posttrain.storage.store import open_store
from posttrain.taxonomy import Kind
from tests.components.test_task import Fake
from tests.made import based, prepared, problem
from tests.s3 import BUCKET, s3, s3_server
from tests.tiny import tiny_policy

__all__ = ["s3", "s3_server"]
pytestmark = pytest.mark.xdist_group("s3")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("model") / "model", "llama")


@pytest.fixture(params=["disk", "s3"])
def store(request, tmp_path, monkeypatch):
    """A store, and a threshold below every model."""
    uri = str(tmp_path / "store")
    if request.param == "s3":
        request.getfixturevalue("s3")
        uri = f"s3://{BUCKET}/store"
    monkeypatch.setenv(STORE_VARIABLE, uri)
    monkeypatch.setenv(INLINE_VARIABLE, "0")
    return uri


def handed_on(path, model):
    """A policy by reference, and its record."""
    based(path, model)
    record = read_record(path)
    assert hand_on(path, record)
    return record


def names(path):
    return sorted(file.name for file in path.iterdir())


def test_the_record_travels_and_the_files_lie_in_the_store(store, model, tmp_path):
    record = handed_on(tmp_path / "policy", model)
    assert names(tmp_path / "policy") == ["posttrain.json", REFERENCE_FILE]
    assert read_record(tmp_path / "policy") == record
    opened = obtain(tmp_path / "policy", Kind.POLICY)
    assert (opened.record, names(opened.path)) == (record, sorted([*record.files, "posttrain.json"]))
    # What lies there is a Hugging Face directory that any server of models reads, and an artifact of its own.
    assert reference_at(tmp_path / "policy").uri.startswith(f"{store}/policy-")
    assert open_artifact(opened.path, Kind.POLICY).digest == record.digest


def test_a_stage_takes_a_parent_by_reference(store, model, tmp_path):
    record = handed_on(tmp_path / "policy", model)
    made = execute(
        load_stage("student"), {"teacher": [tmp_path / "policy"]}, {"layers": 1, "max_ratio": 1}, tmp_path / "student"
    )
    assert [(ref.id, ref.digest) for ref in made.parents] == [(record.id, record.digest)]


def test_lineage_and_registry_cope(store, model, tmp_path, capsys):
    record = handed_on(tmp_path / "policy", model)
    show_lineage(tmp_path / "policy")
    assert record.digest[:12] in capsys.readouterr().out
    policy = obtain(tmp_path / "policy", Kind.POLICY)
    registry = open_registry(f"{store}/registry")
    version = registry.register("model", policy, policy, datetime.now(UTC)).version
    again = tmp_path / "again"
    execute(load_stage("recall"), {}, {"uri": registry.policy_uri("model", version.version), "kind": "policy"}, again)
    assert read_record(again) == record


def registered(path, uri):
    """What register does with a policy by reference, and where that then lies."""
    policy, registry = obtain(path, Kind.POLICY, files=False), open_registry(uri)
    version = registry.register("model", policy, policy, datetime.now(UTC)).version
    return registry.policy_uri("model", version.version)


def test_the_store_itself_copies_what_is_registered(store, model, tmp_path, monkeypatch):
    assert load_stage("register").parents["policy"].unread
    record = handed_on(tmp_path / "policy", model)
    with monkeypatch.context() as patched:
        for name in ("fetch", "publish"):
            patched.setattr(f"posttrain.storage.references.{name}", lambda *_: pytest.fail("the bytes came by"))
        there = registered(tmp_path / "policy", f"{store}/registry")
    fetched = fetch(there, tmp_path / "fetched")
    assert (read_record(fetched), names(fetched)) == (record, sorted([*record.files, "posttrain.json"]))


@pytest.mark.parametrize("store", ["s3"], indirect=True)
@pytest.mark.parametrize("why", ["elsewhere", "large", "silent"])
def test_what_the_store_does_not_copy_is_fetched_and_sent(store, model, tmp_path, monkeypatch, why):
    record = handed_on(tmp_path / "policy", model)
    if why == "large":
        monkeypatch.setattr("posttrain.storage.s3._COPIED", 1000)
    elif why == "silent":  # about what it wrote
        monkeypatch.setattr("posttrain.storage.s3.S3Store._copied", lambda *_: "")
    there = registered(tmp_path / "policy", str(tmp_path / "registry") if why == "elsewhere" else f"{store}/registry")
    assert read_record(fetch(there, tmp_path / "fetched")) == record


def test_what_was_changed_in_the_store_is_not_registered(store, model, tmp_path):
    record = handed_on(tmp_path / "policy", model)
    there = open_store(reference_at(tmp_path / "policy").uri)
    there.write("config.json", b"{" + b" " * (record.files["config.json"].size - 1))
    with pytest.raises(DataError, match=r"config\.json: content differs from its recorded SHA-256"):
        registered(tmp_path / "policy", f"{store}/registry")
    assert open_registry(f"{store}/registry").index("model").versions == []
    assert not [each for each in open_store(f"{store}/registry").list() if each.name != "model/index.json"]


def test_a_recalled_reference_brings_its_files(store, model, tmp_path):
    record = handed_on(tmp_path / "policy", model)
    execute(load_stage("recall"), {}, {"uri": str(tmp_path / "policy"), "kind": "policy"}, tmp_path / "again")
    assert names(tmp_path / "again") == sorted([*record.files, "posttrain.json"])


def test_the_same_bytes_are_sent_once(store, model, tmp_path, monkeypatch):
    handed_on(tmp_path / "first" / "policy", model)
    monkeypatch.setattr("posttrain.storage.references.publish", lambda *_: pytest.fail("sent again"))
    handed_on(tmp_path / "second" / "policy", model)
    first, second = (reference_at(tmp_path / name / "policy") for name in ("first", "second"))
    assert first == second


@pytest.mark.parametrize("change", ["lost", "cut", "altered", "record"])
def test_what_is_not_as_recorded_is_refused(tmp_path, model, monkeypatch, change):
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store"))
    monkeypatch.setenv(INLINE_VARIABLE, "1000")
    handed_on(tmp_path / "policy", model)
    (there,) = (tmp_path / "store").glob("policy-*")
    weights = there / "model.safetensors"
    if change == "lost":
        shutil.rmtree(there)
    elif change == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif change == "altered":
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    else:
        (tmp_path / "policy" / REFERENCE_FILE).write_text('{"url": "x"}')
    with pytest.raises(DataError) as raised:
        obtain(tmp_path / "policy", Kind.POLICY)
    assert "\n" not in str(raised.value)


def test_without_a_store_or_below_the_threshold_or_of_rows_everything_is_inline(tmp_path, model, monkeypatch):
    monkeypatch.delenv(STORE_VARIABLE, raising=False)
    based(tmp_path / "policy", model)
    before = names(tmp_path / "policy")
    assert hand_on(tmp_path / "policy", read_record(tmp_path / "policy")) == ""
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store"))
    assert hand_on(tmp_path / "policy", read_record(tmp_path / "policy")) == ""
    monkeypatch.setenv(INLINE_VARIABLE, "0")
    prepared(tmp_path / "problems", [problem(1)])
    assert hand_on(tmp_path / "problems", read_record(tmp_path / "problems")) == ""
    assert names(tmp_path / "policy") == before
    assert not (tmp_path / "store").exists()
    monkeypatch.setenv(INLINE_VARIABLE, "1 GB")
    with pytest.raises(ConfigError, match="POSTTRAIN_INLINE_BYTES=1 GB"):
        hand_on(tmp_path / "policy", read_record(tmp_path / "policy"))


def test_a_policy_with_a_file_of_that_name_is_no_reference(tmp_path, model, monkeypatch):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / REFERENCE_FILE).write_text('{"uri": "s3://elsewhere/model"}')
    based(tmp_path / "policy", tmp_path / "model")
    assert obtain(tmp_path / "policy", Kind.POLICY).path == tmp_path / "policy"


def test_what_has_no_room_here_is_not_fetched(s3, model, tmp_path, monkeypatch):
    monkeypatch.setenv(STORE_VARIABLE, f"s3://{BUCKET}/store")
    monkeypatch.setenv(INLINE_VARIABLE, "0")
    handed_on(tmp_path / "policy", model)
    monkeypatch.setattr("posttrain.storage.references.fetch", lambda *_: pytest.fail("fetched"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ContractError, match="GiB free where about"):
        obtain(tmp_path / "policy", Kind.POLICY)


def test_what_the_node_keeps_is_read_there(s3, model, tmp_path, monkeypatch):
    monkeypatch.setenv(STORE_VARIABLE, f"s3://{BUCKET}/store")
    monkeypatch.setenv(INLINE_VARIABLE, "0")
    monkeypatch.setenv(DIRECTORY, str(tmp_path / "cache"))
    record = handed_on(tmp_path / "policy", model)
    first, second = (obtain(tmp_path / "policy", Kind.POLICY) for _ in range(2))
    assert first == second
    assert first.path.is_relative_to(tmp_path / "cache")
    assert (first.record, names(first.path)) == (record, sorted([*record.files, "posttrain.json"]))


def test_an_absent_policy_stays_inline(store, tmp_path):
    record = execute(load_stage("base"), {}, {"uri": "", "optional": True}, tmp_path / "policy")
    assert record.absent
    assert hand_on(tmp_path / "policy", record) == ""
    assert obtain(tmp_path / "policy", Kind.POLICY).path == tmp_path / "policy"


def test_another_kind_is_refused_before_anything_is_fetched(store, model, tmp_path, monkeypatch):
    handed_on(tmp_path / "policy", model)
    monkeypatch.setattr("posttrain.storage.references.fetch", lambda *_: pytest.fail("fetched"))
    with pytest.raises(ContractError, match="a policy artifact"):
        obtain(tmp_path / "policy", Kind.PROBLEMS)


def test_a_store_that_fails_leaves_the_artifact_as_it_was(tmp_path, model, monkeypatch):
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store"))
    monkeypatch.setenv(INLINE_VARIABLE, "0")

    def fails(*_):
        raise StorageError("gone")

    monkeypatch.setattr("posttrain.storage.references.publish", fails)
    based(tmp_path / "policy", model)
    with pytest.raises(StorageError):
        hand_on(tmp_path / "policy", read_record(tmp_path / "policy"))
    assert obtain(tmp_path / "policy", Kind.POLICY).path == tmp_path / "policy"


def test_a_task_hands_on_by_reference_and_says_where(store, model, tmp_path):
    from posttrain.pipelines.compiler import load_component

    (tmp_path / "task").mkdir()
    outputs = {name: Fake(str(tmp_path / "task" / name)) for name in ("policy", "page")}
    load_component("base").python_func(**outputs, uri=str(model), name="my policy")
    metadata = outputs["policy"].metadata
    reference = json.loads((Path(outputs["policy"].path) / REFERENCE_FILE).read_text())
    assert metadata[FILES_KEY] == reference["uri"]
    assert reference["uri"].startswith(f"{store}/my-policy-")
    assert decode(metadata)["digest"] == obtain(Path(outputs["policy"].path), Kind.POLICY).digest
