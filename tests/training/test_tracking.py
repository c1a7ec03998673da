"""Curves where people look for them: TensorBoard files in the artifact, MLflow and W&B if asked."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from posttrain.artifacts.digests import digest_of
from posttrain.errors import ConfigError
from posttrain.training.settings import TrainSettings
from posttrain.training.tracking import RUN_VARIABLE, run_name, write_events
from tests.training.jobs import BRIEF, SUMS, answered, base, prepared, record, run, same_weights


def events(artifact: Path) -> dict[str, list[list[float]]]:
    """The curves that an artifact's TensorBoard file holds, as its own reader would find them."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = (artifact / "tensorboard").iterdir()
    content, read = file.read_bytes(), defaultdict(list)
    while content:
        # A record: its length (8 bytes), a checksum of it (4), itself, a checksum of it (4).
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        for value in event.summary.value:
            read[value.tag].append([event.step, value.simple_value])
        content = content[12 + length + 4 :]
    return dict(read)


@pytest.fixture
def parents(tmp_path: Path) -> dict[str, Path]:
    init = base(tmp_path / "init", "llama")
    return {"init": init, "data": prepared(tmp_path / "data", answered(SUMS), "trajectories")}


def test_the_artifact_holds_its_curves(tmp_path: Path, parents: dict[str, Path]) -> None:
    artifact = run("sft", tmp_path / "sft", BRIEF, **parents)
    made = record(artifact)
    read = events(artifact)
    assert read.keys() == made.curves.keys() >= {"loss", "grad_norm"}
    for name, points in made.curves.items():
        assert [value for _, value in read[name]] == pytest.approx([value for _, value in points], rel=1e-6)
        assert [step for step, _ in read[name]] == [1, 2]


def test_curves_are_verified_but_no_part_of_what_was_made(tmp_path: Path, parents: dict[str, Path]) -> None:
    often = run("sft", tmp_path / "often", BRIEF, **parents)
    again = run("sft", tmp_path / "again", BRIEF, **parents)
    seldom = run("sft", tmp_path / "seldom", BRIEF | {"logging_steps": 2}, **parents)
    one, two, other = (record(artifact) for artifact in (often, again, seldom))
    assert one.files == two.files
    assert one.files != other.files and one.digest == other.digest and same_weights(often, seldom)
    (name,) = (name for name in one.files if name.startswith("tensorboard/"))
    assert one.digest == digest_of({file: entry.sha256 for file, entry in one.files.items() if file != name})
    (often / name).write_bytes(b"changed")
    with pytest.raises(ValueError, match="tensorboard"):
        record(often)


def test_the_same_curves_are_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_events(tmp_path / name, {"loss": [[1.0, 0.5]], "a/b": [[2.0, -1.0]]})
        files += (tmp_path / name / "tensorboard").iterdir()
    assert files[0].name == files[1].name and files[0].read_bytes() == files[1].read_bytes()


def test_a_run_is_named_after_the_pipelines_run_and_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN_VARIABLE, raising=False)
    assert run_name(TrainSettings(), "sft") == "sft"
    monkeypatch.setenv(RUN_VARIABLE, "nightly 7")
    assert run_name(TrainSettings(name="rl_policy"), "grpo") == "nightly 7 rl_policy"
    assert run_name(TrainSettings(run_name="mine"), "sft") == "mine"


def test_a_missing_tracker_is_refused_before_training(
    tmp_path: Path, parents: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name != "wandb" and found(name, *more))
    with pytest.raises(ConfigError, match="track=wandb needs the package wandb, which is not installed"):
        run("sft", tmp_path / "sft", BRIEF | {"track": ["wandb"]}, **parents)


def test_mlflow(tmp_path: Path, parents: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    store = f"file://{tmp_path}/mlruns"  # what the skinny package can write without a server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "sums")
    monkeypatch.setenv(RUN_VARIABLE, "nightly")
    made = record(run("sft", tmp_path / "sft", BRIEF | {"track": ["mlflow"]}, **parents))
    client = mlflow.MlflowClient(store)
    (logged,) = client.search_runs([client.get_experiment_by_name("sums").experiment_id])
    assert (logged.info.run_name, logged.info.status) == ("nightly sft", "FINISHED")
    assert logged.data.metrics["loss"] == pytest.approx(made.metrics["loss"])
    history = [metric.value for metric in client.get_metric_history(logged.info.run_id, "loss")]
    assert history == pytest.approx([value for _, value in made.curves["loss"]])


def test_wandb(tmp_path: Path, parents: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    values: dict[str, Any] = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_PROJECT": "sums"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    run("sft", tmp_path / "sft", BRIEF | {"track": ["wandb"], "run_name": "mine"}, **parents)
    import wandb

    assert wandb.run is None, "the next stage of this process would go on in it"
    (log,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert all(word in log.read_bytes() for word in (b"mine", b"sums", b"train/loss"))
