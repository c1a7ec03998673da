"""The record: round trip, lineage, and refusing every artifact that is not the one recorded."""

import json

import pytest
from hypothesis import HealthCheck, given, settings

from posttrain.artifacts.artifact import file_entries, open_artifact
from posttrain.artifacts.digests import RECORD_FILE, digest_of
from posttrain.artifacts.record import Record, has_record, read_record
from posttrain.errors import ContractError, DataError
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work, execute
from posttrain.taxonomy import Kind
from tests.artifacts.records import records


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(records())
def test_a_record_survives_its_file(tmp_path_factory, record):
    directory = tmp_path_factory.mktemp("record")
    record.write(directory)
    again = Record.model_validate(json.loads((directory / RECORD_FILE).read_text(encoding="utf-8")))
    assert again.model_dump_json() == record.model_dump_json()


@pytest.fixture
def made(tmp_path):
    out = tmp_path / "made"
    files = {"rows.parquet": b"some rows", "deep/more.bin": b"more"}
    execute(writes(files), {}, {"name": "made"}, out)
    return out


def writes(files, parents=None):
    def run(settings, parents, out, progress):
        assert not has_record(out)
        for name, content in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content)
        return Work(facts={"rows": 3})

    return Stage("verify", "scored", Kind.TRAJECTORIES, parents or {}, Settings, run)


def test_the_record_describes_what_was_written(made):
    record = read_record(made)
    assert record.files == file_entries(made)
    assert record.digest == digest_of({name: entry.sha256 for name, entry in record.files.items()})
    assert record.files.keys() == {"rows.parquet", "deep/more.bin"}
    assert record.environment.versions["python"]
    assert record.seconds >= 0


def test_the_record_is_written_last(tmp_path, monkeypatch):
    def fails(self, directory):
        assert (directory / "rows.parquet").read_bytes() == b"some rows"
        raise KeyboardInterrupt

    monkeypatch.setattr(Record, "write", fails)
    with pytest.raises(KeyboardInterrupt):
        execute(writes({"rows.parquet": b"some rows"}), {}, {}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_ancestors_are_flat_and_answer_by_role(tmp_path):
    spec = {"data": ParentSpec(Kind.TRAJECTORIES, most=2, required=False)}
    made = []
    for generation in range(4):
        out = tmp_path / str(generation)
        stage = writes({"rows": bytes([generation])}, spec)
        execute(stage, {"data": made[-2:]}, {"name": f"stage{generation}"}, out)
        made.append(out)
    youngest = read_record(made[-1])
    oldest = read_record(made[0])
    assert [ref.digest for ref in youngest.parents] == [read_record(path).digest for path in made[1:3]]
    assert youngest.ancestors.keys() == {read_record(path).id for path in made[:3]}
    assert all(ancestor.ancestors == {} for ancestor in youngest.ancestors.values())
    assert youngest.family().keys() == {*youngest.ancestors, youngest.id}
    assert youngest.parent("data").name == "stage1"
    assert youngest.parent("init") is None
    assert youngest.family()[oldest.id] == oldest


@pytest.mark.parametrize(
    ("break_it", "name", "what"),
    [
        (lambda path: (path / "deep/more.bin").unlink(), "deep/more.bin", "is missing"),
        (lambda path: (path / "new.txt").write_text("new"), "new.txt", "is not in the record"),
        (lambda path: (path / "rows.parquet").write_bytes(b"some"), "rows.parquet", "4 bytes instead of 9"),
        (lambda path: (path / "rows.parquet").write_bytes(b"some rowS"), "rows.parquet", "SHA-256"),
        (lambda path: (path / RECORD_FILE).unlink(), "made", "no stage finished writing it"),
        (lambda path: (path / RECORD_FILE).write_text("{"), RECORD_FILE, "not a record"),
        (lambda path: (path / RECORD_FILE).write_text('{"kind": "policy"}'), RECORD_FILE, "not a record"),
        (lambda path: (path / RECORD_FILE).write_bytes(b"\xff\xfe\x00"), RECORD_FILE, "not a record"),
    ],
    ids=["missing", "extra", "truncated", "changed", "no record", "cut record", "other JSON", "binary record"],
)
def test_an_artifact_that_is_not_the_one_recorded_is_refused(made, break_it, name, what):
    break_it(made)
    with pytest.raises(DataError) as raised:
        open_artifact(made, Kind.TRAJECTORIES)
    line = str(raised.value)
    assert name in line
    assert what in line
    assert "\n" not in line


def test_docs_beside_an_artifact_are_welcome(made):
    (made / "README.md").write_text("mine")
    read_record(made)


def test_without_verification_only_names_and_sizes_count(made):
    (made / "rows.parquet").write_bytes(b"some rowS")
    read_record(made, verify=False)
    (made / "rows.parquet").write_bytes(b"")
    with pytest.raises(DataError):
        read_record(made, verify=False)


def test_another_kind_is_refused_by_name(made):
    with pytest.raises(ContractError, match=r"a trajectories artifact .* where a policy is needed"):
        open_artifact(made, Kind.POLICY)


def test_parents_keep_the_declared_order(made):
    opened = open_artifact(made, Kind.TRAJECTORIES)
    parents = Parents({"init": [], "data": [opened, opened]})
    assert parents.maybe("init") is None
    assert parents.one("data") is opened
    assert parents.all("data") == [opened, opened]
    assert [role for role, _ in parents.items()] == ["data", "data"]


def test_a_stage_that_changed_nothing_is_not_its_own_ancestor(tmp_path):
    spec = {"data": ParentSpec(Kind.TRAJECTORIES, required=False)}
    stage = writes({"rows": b"the same"}, spec)
    execute(stage, {}, {}, tmp_path / "first")
    execute(stage, {"data": [tmp_path / "first"]}, {}, tmp_path / "second")
    parent, child = read_record(tmp_path / "first"), read_record(tmp_path / "second")
    assert child.digest == parent.digest
    assert child.family().keys() == {parent.id, child.id}
    assert child.parent("data") == parent
