"""When a run is kept, and by whom: one save at a time, a store that fails, another owner, damage, another run."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from posttrain.errors import (
    RETRYABLE,
    USER_ERROR,
    ConfigError,
    ContractError,
    FencedError,
    RefusedError,
    StorageError,
)
from posttrain.progress import Silence
from posttrain.storage.manifest import World
from posttrain.storage.references import STORE_VARIABLE
from posttrain.training import launch
from posttrain.training.plain import packed, unpacked
from posttrain.training.ranks import Group
from posttrain.training.saving import Cadence, Saver
from posttrain.training.settings import CHECKPOINT_SETTINGS, TrainSettings
from posttrain.training.snapshot import HostCopies
from tests.training.jobs import SUMS, answered, base, prepared, record, run, same_weights


class Memory:
    """Checkpoints that are a dict, and fail as they are told to."""

    def __init__(self) -> None:
        self.steps: dict[int, set[str]] = {}
        self.open = threading.Event()
        self.open.set()
        self.error: Exception | None = None

    def add(self, files: Mapping[str, Any]) -> dict[str, str]:
        self.open.wait(10)
        if self.error:
            raise self.error
        return dict.fromkeys(files, "sent")

    def commit(self, step: int, files: Mapping[str, str], *about: Any) -> bool:
        self.steps[step] = set(files)
        return True

    def prune(self) -> None:
        pass

    def sweep(self) -> None:
        pass


class Trainer:
    """Knows its step, and little else."""

    has_rollouts = False

    def __init__(self, most: int = 100) -> None:
        self.state = SimpleNamespace(global_step=0, max_steps=most, log_history=[])
        self.control = SimpleNamespace(should_training_stop=False)

    def snapshot(self) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
        return {"a.json": {}}, {"b.safetensors": {"w": torch.ones(3)}}

    def step(self, saver: Saver) -> None:
        self.state.global_step += 1
        saver.between_steps(self)


def saver_of(store: Memory, steps: int = 1, seconds: float = 1000.0) -> Saver:
    return Saver(store, Cadence(steps, seconds, patience=1000.0), World(), {}, Silence("t"), Group())  # type: ignore[arg-type]


def test_a_save_that_is_due_while_one_is_under_way_waits_for_the_next_step() -> None:
    store, trainer = Memory(), Trainer()
    saver = saver_of(store, steps=2)
    store.open.clear()
    for _ in range(5):
        trainer.step(saver)
    assert saver.counts["checkpoints_delayed"] == 1 and not store.steps
    store.open.set()
    saver.wait()
    trainer.step(saver)  # step 6: the one that was due at 4
    saver.finish()
    assert store.steps == {2: {"a.json", "b.safetensors"}, 6: {"a.json", "b.safetensors"}}


def test_a_store_that_fails_is_counted_and_training_goes_on_for_a_while() -> None:
    store, trainer = Memory(), Trainer()
    saver = saver_of(store)
    store.error = StorageError("gone")
    trainer.step(saver)
    saver.wait()
    trainer.step(saver)
    saver.wait()
    assert saver.counts == {"checkpoints_failed": 2}
    saver._committed -= 2000  # as if so much time had passed
    with pytest.raises(StorageError, match=r"nothing could be kept for .*checkpoint_patience.*gone"):
        trainer.step(saver)


def test_a_save_that_the_last_one_would_wait_for_is_left_out() -> None:
    for took, kept in ((0.0, [1, 2, 3, 4]), (1000.0, [1, 4])):
        store, trainer = Memory(), Trainer(most=4)
        saver = saver_of(store, steps=0, seconds=0.0)
        for _ in range(4):
            trainer.step(saver)
            saver.wait()
            saver._took = took  # as if it had
        saver.finish()
        assert list(store.steps) == kept


def test_what_is_told_to_end_is_kept_or_says_that_it_was_not() -> None:
    for error in (None, StorageError("gone"), RefusedError("gone")):
        store, trainer = Memory(), Trainer()
        saver = saver_of(store, steps=50)
        trainer.step(saver)
        saver.tell_to_end()
        store.error = error
        trainer.step(saver)
        assert trainer.control.should_training_stop and saver.stopped_at == 2
        if error:
            with pytest.raises(StorageError, match="gone") as raised:
                saver.finish()
            assert raised.value.exit_code == RETRYABLE  # the key was right when the run began; the next pod's may be
        else:
            saver.finish()
            assert list(store.steps) == [2]


def test_the_last_step_is_kept_and_another_owner_ends_the_run() -> None:
    store, trainer = Memory(), Trainer(most=2)
    saver = saver_of(store, steps=50)
    trainer.step(saver)
    trainer.step(saver)
    saver.finish()
    assert list(store.steps) == [2] and not trainer.control.should_training_stop
    store.error = FencedError("another")
    saver = saver_of(store)
    Trainer().step(saver)
    with pytest.raises(FencedError):
        saver.finish()


def test_copies_are_safetensors_in_buffers_that_are_used_again(tmp_path: Path) -> None:
    copies = HostCopies()
    first = {"a": torch.arange(6).reshape(2, 3).t(), "b": torch.tensor(1.5, dtype=torch.bfloat16), "c": torch.ones(0)}
    first |= {"d": torch.tensor([True, False, True]), "e": torch.randn(5)}
    pieces = copies.copy({"f": first})["f"]
    (tmp_path / "f").write_bytes(b"".join(pieces))
    assert all(torch.equal(tensor, first[name]) for name, tensor in load_file(tmp_path / "f").items())
    assert load_file(tmp_path / "f").keys() == first.keys()
    first["e"].zero_()
    assert (tmp_path / "f").read_bytes() == b"".join(pieces), "a copy does not follow what it was taken from"
    again = copies.copy({"f": first})["f"]
    assert b"".join(again) == b"".join(pieces), "the next copy is in the same place"


def test_state_that_cannot_be_restored_is_refused() -> None:
    with pytest.raises(TypeError, match=r"own\.kept\.file is a TextIOWrapper"):
        packed({"kept": {"file": open(__file__)}}, {}, "own")  # noqa: SIM115
    generator, tensors = torch.Generator().manual_seed(3), {}
    state = packed({"g": generator, 5: (1, float("inf"))}, tensors, "s")
    drawn = torch.rand(2, generator=generator)
    back = unpacked(state, tensors, {"g": generator}, "cpu")
    assert torch.equal(torch.rand(2, generator=back["g"]), drawn) and back[5] == (1, float("inf"))


def test_settings_of_checkpoints_are_no_parameters() -> None:
    assert TrainSettings.model_fields.keys() > CHECKPOINT_SETTINGS


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("parents")
    return {"init": base(home / "init", "llama"), "data": prepared(home / "data", answered(SUMS), "trajectories")}


@pytest.mark.parametrize("where", ["checkpoint_uri", STORE_VARIABLE])
def test_a_wrong_place_is_told_before_anything_is_loaded(
    where: str, parents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_kept", lambda *_: pytest.fail("trained"))
    wrong = f"{parents['data']}.jsonl/kept"
    monkeypatch.setenv(STORE_VARIABLE, wrong)
    settings = {}
    if where == "checkpoint_uri":
        monkeypatch.delenv(STORE_VARIABLE)
        settings["checkpoint_uri"] = wrong
    with pytest.raises(RefusedError, match="check the path, its owner") as raised:
        run("sft", tmp_path / "policy", settings, **parents)
    assert raised.value.exit_code == USER_ERROR


def test_damage_is_passed_over_and_another_run_is_named(
    parents: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"max_steps": 2, "batch_size": 4, "checkpoint_uri": str(tmp_path / "kept"), "keep_last": 5}

    def ran(name: str, **more: Any) -> Path:
        return run("sft", tmp_path / name, settings | more, **parents)

    with pytest.raises(ContractError, match=r"resume=must, but there is no whole checkpoint .* holds no run"):
        ran("refused", resume="must")
    alone = ran("alone")
    assert "going on" not in capsys.readouterr().err
    for blob in (tmp_path / "kept").rglob("blobs/*"):
        if blob.stat().st_size > 50_000:  # weights and optimizer: other bytes of the same size
            blob.write_bytes(bytes(blob.stat().st_size))
    again = ran("again")
    said = capsys.readouterr().err
    assert "is damaged: " in said and "trying the one before it" in said
    assert same_weights(alone, again) and "resumed_from_step" not in record(again).counts
    with pytest.raises(ContractError, match=r"is of another run .*parameters\.learning_rate: 2e-05 there, 0\.1 here"):
        ran("refused", resume="must", learning_rate=0.1)
    ran("other", learning_rate=0.1)
    assert "starting anew: " in capsys.readouterr().err
    assert record(ran("never", resume="never")).counts["checkpoints"] == 1
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"models: holds something else \(config\.json\); give checkpoints a prefix"):
        ran("beside", checkpoint_uri=str(tmp_path / "models"))
