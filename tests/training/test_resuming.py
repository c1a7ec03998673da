"""A run that is told to end and started again makes, bit for bit, what one that was left alone makes."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from posttrain.components.catalogue import load_stage

from posttrain.errors import ContractError, Preempted
from posttrain.stage import Parents
from posttrain.training.callbacks import Listener
from posttrain.training.keeping import identity_of
from posttrain.training.saving import Saver
from posttrain.verifiers.endpoint import PREFIX
from tests.training.jobs import SUMS, prepared, record, run, same_weights
from tests.training.kept_jobs import JOBS, job, made
from tests.verifiers.judging import MODEL, serving


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("resuming")
    made(home)
    return home


def end_after(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Have this process told to end within those steps, as a pod is that must go."""
    listen = Listener.on_step_end

    def told(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        listen(self, args, state, control, **more)
        if state.global_step in steps:
            steps.remove(state.global_step)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Listener, "on_step_end", told)


@pytest.mark.parametrize("name", JOBS)
def test_it_goes_on_exactly(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    stage, settings, parents = job(home, name)
    alone = run(stage, tmp_path / "alone", settings, **parents)
    ends = {4, 5}  # at the end of the first epoch, for most, and within the second; within a batch that is used again
    end_after(monkeypatch, ends)
    kept = settings | {"checkpoint_uri": str(tmp_path / "kept"), "checkpoint_steps": 100}
    for _ in range(2):
        with pytest.raises(Preempted):
            run(stage, tmp_path / "ended", kept, **parents)
    again = run(stage, tmp_path / "again", kept, **parents)
    assert not ends and same_weights(alone, again)
    once, twice = record(alone), record(again)
    assert once.digest == twice.digest and once.parameters == twice.parameters
    for told in ("curves", "trace", "facts", "metrics"):
        assert getattr(once, told) == getattr(twice, told)
    assert twice.counts == once.counts | {"checkpoints": 3, "resumed_from_step": 5}


def test_who_judged_is_counted_on(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row | {"verifier": "judge", "reference": {"criteria": "1"}} for row in SUMS]
    problems = prepared(tmp_path / "problems", rows, "problems")
    _, settings, parents = job(home, "grpo")
    kept = settings | {"checkpoint_uri": str(tmp_path / "kept"), "checkpoint_steps": 100}
    with serving() as server:
        for name, value in {"URL": server.url, "MODEL": MODEL, "CACHE": str(tmp_path / "cache")}.items():
            monkeypatch.setenv(PREFIX + name, value)
        alone = run("rl", tmp_path / "alone", settings, **parents | {"problems": problems})
        end_after(monkeypatch, {3})
        with pytest.raises(Preempted):
            run("rl", tmp_path / "ended", kept, **parents | {"problems": problems})
        again = run("rl", tmp_path / "again", kept, **parents | {"problems": problems})
    assert re.search(r"served by .* \(\d+\)", record(alone).facts["judge"])
    assert record(alone).facts == record(again).facts


def test_what_a_run_took_is_counted_on(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, settings, parents = job(home, "sft")
    kept = settings | {"checkpoint_uri": str(tmp_path / "kept"), "checkpoint_steps": 100}
    end_after(monkeypatch, {3})
    monkeypatch.setattr(Saver, "tally", lambda self: {"counts": {}, "seconds": 1000.0})
    with pytest.raises(Preempted):
        run(stage, tmp_path / "ended", kept, **parents)
    assert record(run(stage, tmp_path / "again", kept, **parents)).seconds > 1000


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_a_finished_run_leads_straight_to_its_end(home: Path, tmp_path: Path, name: str) -> None:
    stage, settings, parents = job(home, name)
    kept = settings | {"checkpoint_uri": str(tmp_path / "kept"), "checkpoint_steps": 100, "resume": "auto"}
    first = run(stage, tmp_path / "first", kept, **parents)
    again = run(stage, tmp_path / "again", kept | {"resume": "must"}, **parents)
    assert same_weights(first, again) and record(first).curves == record(again).curves
    assert record(again).counts["resumed_from_step"] == 6


def test_another_share_of_each_batch_goes_on_where_no_rollouts_are_left(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rollouts are trained on in two steps, so that step 3 ends between them."""
    stage, settings, parents = job(home, "hints")
    settings |= {"trainer_args": {"num_iterations": 2}, "max_staleness": 3, "batch_size": 8, "hint_until": 1.0}
    alone = run(stage, tmp_path / "alone", settings, **parents)
    other = {"batch_size": 4, "accumulation": 4}
    for name, every in (("kept", 2), ("only", 100)):
        end_after(monkeypatch, {3})
        settings |= {"checkpoint_uri": str(tmp_path / name), "checkpoint_steps": every}
        with pytest.raises(Preempted):
            run(stage, tmp_path / "ended", settings, **parents)
    with pytest.raises(ContractError, match=r"checkpoint 3, .* still to be trained on; start as many as there were"):
        run(stage, tmp_path / "refused", settings | other, **parents)
    capsys.readouterr()
    again = run(stage, tmp_path / "again", settings | other | {"checkpoint_uri": str(tmp_path / "kept")}, **parents)
    said, how = capsys.readouterr().err, "batch_size × accumulation = 4 × 4 instead of 8 × 2"
    assert (
        f"checkpoint 3, {how}: each of 1 holds rollouts that are still to be trained on; trying the one before" in said
    )
    assert f"going on from step 2, with {how}: not to the bit" in said
    once, twice = record(alone), record(again)
    assert twice.counts["resumed_from_step"] == 2 and once.trace == twice.trace
    assert {name: twice.counts[name] for name in ("rollouts", "unscorable")} == {"rollouts": 48, "unscorable": 0}


def test_what_compares_neighbours_in_a_batch_is_another_run_with_other_batches() -> None:
    for stage, settings, alike in (
        ("sft", {}, True),
        ("preference", {"method": "dpo"}, True),
        ("preference", {"method": "kto"}, False),
        ("rl", {"trainer_args": {"steps_per_generation": 2}}, False),
    ):
        chosen = [
            load_stage(stage).settings(batch_size=size, accumulation=12 // size, processes=2, **settings)
            for size in (4, 2)
        ]
        one, other = (identity_of(load_stage(stage), each, Parents({})) for each in chosen)
        assert (one == other) == alike
