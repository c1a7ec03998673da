"""The joint between a KFP task and a stage, with stand-ins for KFP's artifacts."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from posttrain.components import task
from posttrain.components.catalogue import load_stage
from posttrain.components.task import parent_role, run_task
from posttrain.pipelines.compiler import load_component

from posttrain.artifacts.metadata import decode, encode
from posttrain.artifacts.record import read_record
from posttrain.artifacts.rows import read_rows
from posttrain.errors import StorageError
from posttrain.progress import EVENTS_VARIABLE
from posttrain.settings import Settings
from posttrain.stage import ParentSpec, Stage, Work
from posttrain.taxonomy import Kind
from tests.made import jsonl, prepared, problem


@dataclass
class Fake:
    """What a component sees of an artifact."""

    path: str
    metadata: dict = field(default_factory=dict)
    uri: str = "minio://bucket/key"
    logged: dict = field(default_factory=dict)

    def log_metric(self, name, value):
        assert type(value) is float
        self.logged[name] = value


@pytest.fixture
def outputs(tmp_path):
    """KFP makes the parents of outputs, not the outputs."""
    (tmp_path / "task").mkdir()
    return {name: Fake(str(tmp_path / "task" / name)) for name in ("data", "metrics", "page")}


@pytest.fixture
def uri(tmp_path):
    return str(jsonl(tmp_path / "rows.jsonl", [problem(n) for n in range(1, 11)]))


def prepare(outputs, **arguments):
    load_component("prepare").python_func(data=outputs["data"], page=outputs["page"], **arguments)
    return read_record(Path(outputs["data"].path))


def test_a_task_leaves_artifact_metadata_and_page(outputs, uri):
    record = prepare(outputs, uri=uri, kind="problems", name="my_problems")
    assert record.name == "my_problems"
    assert outputs["data"].metadata == encode(record)
    assert decode(outputs["data"].metadata)["digest"] == record.digest
    assert Path(outputs["page"].path).read_text().lower().startswith("<!doctype html>")


def test_unset_parameters_leave_the_defaults(outputs, uri):
    record = prepare(outputs, uri=uri, kind="problems")
    stage = load_stage("prepare")
    expected = stage.settings(uri=uri, kind="problems").model_dump(mode="json", exclude={"name", "role", "also"})
    assert record.parameters == expected
    assert record.name == "prepare"


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit": 4.0, "seed": 2.0},
        {"settings": {"limit": 4.0, "seed": 2.0}},
        {"limit": 9, "settings": {"limit": 4, "seed": 2}},
    ],
    ids=["as doubles", "as doubles in settings", "settings win"],
)
def test_whole_numbers_arrive_as_whole_numbers(outputs, uri, arguments):
    record = prepare(outputs, uri=uri, kind="problems", **arguments)
    assert (record.parameters["limit"], record.parameters["seed"]) == (4, 2)
    assert type(record.parameters["limit"]) is int
    assert record.counts["rows_kept"] == 4


@pytest.mark.parametrize("arguments", [{"replay_share": 0}, {"settings": {"replay_share": 0, "max_malformed": 1}}])
def test_integral_doubles_that_arrive_as_integers_are_doubles_again(outputs, uri, arguments):
    record = prepare(outputs, uri=uri, kind="problems", **arguments)
    assert type(record.parameters["replay_share"]) is float


def test_empty_text_is_unset_and_an_absent_parent_is_none(outputs, uri):
    record = prepare(outputs, uri=uri, kind="problems", source="", name="", held_out=None, replay=None)
    assert record.facts["source"] == "rows.jsonl"
    assert record.parents == []


def test_parents_arrive_by_role(outputs, uri, tmp_path):
    held_out = prepared(tmp_path / "held_out", [problem(1, id="held")])
    record = prepare(outputs, uri=uri, kind="problems", held_out=Fake(str(held_out)))
    assert [(ref.role, ref.digest) for ref in record.parents] == [("held_out", read_record(held_out).digest)]
    assert record.counts["dropped_held_out"] == 1


@pytest.mark.parametrize(
    ("stage", "key", "role"),
    [
        ("report", "evaluations_1", "evaluations"),
        ("report", "evaluations_8", "evaluations"),
        ("report", "decision", "decision"),
        ("report", "report", None),
        ("prepare", "held_out", "held_out"),
        ("prepare", "limit", None),
        ("sft", "batch_size", None),
    ],
)
def test_numbered_arguments_are_parents_of_one_role(stage, key, role):
    assert parent_role(key, load_stage(stage)) == role


def stage_of(run, **changes):
    return replace(Stage("keep", "data", Kind.TRAJECTORIES, {}, Settings, run), **changes)


def test_numbered_parents_keep_their_order(outputs, tmp_path, monkeypatch):
    seen = []

    def run(settings, parents, out, progress):
        seen.extend(artifact.path.name for artifact in parents.all("many"))
        return Work()

    stage = stage_of(run, parents={"many": ParentSpec(Kind.PROBLEMS, most=8)})
    monkeypatch.setattr(task, "load_stage", lambda name: stage)
    made = [prepared(tmp_path / name, [problem(n)]) for n, name in enumerate("bca")]
    run_task("keep", {f"many_{n}": Fake(str(path)) for n, path in enumerate(made, 1)} | {"many_4": None} | outputs)
    assert seen == ["b", "c", "a"]


def test_numbers_that_the_backend_refuses_are_not_logged_but_recorded(outputs, monkeypatch):
    metrics = {"nan": float("nan"), "inf": float("inf"), "whole": 3, "fine": 0.5}
    monkeypatch.setattr(task, "load_stage", lambda name: stage_of(lambda *_: Work(metrics=metrics)))
    run_task("keep", dict(outputs))
    assert outputs["metrics"].logged == {"whole": 3.0, "fine": 0.5}
    record = read_record(Path(outputs["data"].path))
    assert repr(record.metrics["nan"]) == "nan"
    assert all(isinstance(value, str) for value in outputs["data"].metadata.values())


def test_of_many_curves_those_that_tell_most_are_logged(outputs, monkeypatch):
    ends = {"reward": 0.5, "clip_ratio/low_min": 0.0, "auc": 0.9}
    curves = {name: [[1, 0.0], [2, end]] for name, end in ends.items() if name != "auc"}
    monkeypatch.setattr(task, "load_stage", lambda name: stage_of(lambda *_: Work(metrics=dict(ends), curves=curves)))
    run_task("keep", dict(outputs))
    assert outputs["metrics"].logged == {"reward": 0.5, "auc": 0.9}


def failed(outputs, capsys, monkeypatch, tmp_path, **arguments):
    """Exit code, the last line on stderr, and the failure event of a task that ends the process."""
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events.jsonl"))
    with pytest.raises(SystemExit) as raised:
        prepare(outputs, **arguments)
    monkeypatch.delenv(EVENTS_VARIABLE)
    (event,) = [row for row in read_rows(tmp_path / "events.jsonl").rows if row["event"] == "failed"]
    assert not Path(outputs["data"].path).exists()
    assert outputs["data"].metadata == {}
    return raised.value.code, capsys.readouterr().err, event


def test_a_mistake_ends_the_task_with_one_line_and_exit_code_2(outputs, capsys, monkeypatch, tmp_path):
    arguments = {"uri": "nowhere", "kind": "problems", "name": "mine"}
    code, error, event = failed(outputs, capsys, monkeypatch, tmp_path, **arguments)
    assert code == 2
    assert error.startswith("[mine] DataError: nowhere: no such file or directory")
    assert error.count("\n") == 1
    assert (event["stage"], event["message"][:8]) == ("mine", "nowhere:")


@pytest.mark.parametrize("wrong", [{"limt": 3}, {"seed": "x"}])
def test_a_wrong_setting_ends_the_task_with_exit_code_2(outputs, uri, capsys, monkeypatch, tmp_path, wrong):
    code, error, _ = failed(outputs, capsys, monkeypatch, tmp_path, uri=uri, kind="problems", settings=wrong)
    assert code == 2
    assert "ConfigError" in error


def test_a_fault_of_the_store_ends_the_task_with_exit_code_75(outputs, uri, capsys, monkeypatch, tmp_path):
    def fails(*_):
        raise StorageError("s3://bucket/key: gone")

    stage = replace(load_stage("prepare"), run=fails)
    monkeypatch.setattr(task, "load_stage", lambda name: stage)
    code, error, _ = failed(outputs, capsys, monkeypatch, tmp_path, uri=uri, kind="problems")
    assert (code, error) == (75, "[prepare] StorageError: s3://bucket/key: gone\n")


def test_a_fault_of_ours_keeps_its_traceback_and_tells_the_watcher(outputs, uri, monkeypatch, tmp_path):
    def fails(*_):
        raise ZeroDivisionError("ours")

    stage = replace(load_stage("prepare"), run=fails)
    monkeypatch.setattr(task, "load_stage", lambda name: stage)
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events.jsonl"))
    with pytest.raises(ZeroDivisionError):
        prepare(outputs, uri=uri, kind="problems")
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "failed"]
    assert events[-1]["message"] == "ZeroDivisionError: ours"
