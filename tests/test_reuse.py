"""What an earlier run finished is taken over only if it is what would be made now."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from posttrain.components.catalogue import load_stage, load_stages

from posttrain import stage as stages
from posttrain.artifacts.record import read_record
from posttrain.cli import run as cli
from posttrain.errors import ConfigError
from posttrain.recipes.load import parse_recipe
from posttrain.reuse import RUNS_VARIABLE
from posttrain.stage import Work, execute
from posttrain.storage.references import INLINE_VARIABLE, STORE_VARIABLE, hand_on, reference_at
from tests.made import based, prepared, problem
from tests.recipes.test_execute import RECIPE
from tests.tiny import tiny_policy


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("home")
    prepared(root / "problems", [problem(n) for n in range(4)])
    prepared(root / "others", [problem(n) for n in range(5)])
    based(root / "policy", tiny_policy(root / "model", "llama"))
    return root


class Runs:
    """A folder of runs, in which a stage that counts its work is run."""

    def __init__(self, root, home):
        self.root, self.home, self.worked = root, home, 0

    def run(self, run, problems="problems", **settings):
        def work(chosen, parents, out, progress):
            self.worked += 1
            (out / "rows.txt").write_text("measured")
            return Work(metrics={"answer": 42.0})

        stage = replace(load_stage("evaluate"), run=work, check=lambda settings, parents: None)
        task = self.root / run / "artifacts" / "pipeline" / "evaluate"
        parents = {"policy": [self.home / "policy"], "problems": [self.home / problems]}
        return task / "evaluation", execute(stage, parents, settings, task / "evaluation", task / "page")


@pytest.fixture
def runs(tmp_path, home, monkeypatch):
    monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path / "runs"))
    return Runs(tmp_path / "runs", home)


def test_the_same_again_is_taken_over_with_its_page(runs, capsys):
    first, record = runs.run("one")
    second, again = runs.run("two")
    assert (runs.worked, again) == (1, record)
    assert read_record(second) == record
    assert (second.parent / "page").read_text() == (first.parent / "page").read_text()
    assert f"reused: {first}" in capsys.readouterr().err
    assert os.stat(first / "rows.txt").st_ino == os.stat(second / "rows.txt").st_ino


@pytest.mark.parametrize("change", [{"samples": 8}, {"seed": 1}, {"name": "other"}, {"problems": "others"}])
def test_another_setting_or_parent_is_run(runs, change):
    runs.run("one")
    _, record = runs.run("two", **change)
    assert runs.worked == 2
    assert record.metrics == {"answer": 42.0}


def test_other_versions_are_run(runs, monkeypatch):
    monkeypatch.setattr(stages, "versions", lambda: {"python": "3.0", "pydantic": "0.1"})
    runs.run("one")
    runs.run("two")
    assert runs.worked == 2


def test_what_was_changed_since_is_run_and_named(runs, capsys):
    first, _ = runs.run("one")
    (first / "rows.txt").write_text("MEASURED")
    runs.run("two")
    assert runs.worked == 2
    assert "not reused: " in capsys.readouterr().err


@pytest.mark.parametrize("left", ["", "{", "[]", '{"stage": "evaluate", "name": "evaluate"}'])
def test_what_is_no_artifact_is_passed_over(runs, left):
    broken = runs.root / "zero" / "artifacts" / "pipeline" / "evaluate" / "evaluation" / "posttrain.json"
    broken.parent.mkdir(parents=True)
    broken.write_text(left)
    runs.run("one")
    assert runs.worked == 1


def test_without_being_asked_nothing_is_taken_over(runs, monkeypatch):
    monkeypatch.delenv(RUNS_VARIABLE)
    runs.run("one")
    runs.run("two")
    assert runs.worked == 2


def test_a_stage_that_looks_outside_is_always_run(runs, home):
    """What lies behind its URI may have changed; if it has not, the stages after it find their parents' ids again."""
    outs = [runs.root / name / "artifacts" / "pipeline" / "base" / "policy" for name in ("one", "two")]
    made = [execute(load_stage("base"), {}, {"uri": str(home / "model")}, out) for out in outs]
    assert made[0].started < made[1].started
    assert made[0].id == made[1].id
    outside = {name for name, stage in load_stages().items() if stage.outside}
    assert outside == {"base", "conclude", "data_version", "prepare", "recall", "register"}


def test_a_reference_is_taken_over_while_its_files_are_there(runs, home, tmp_path, monkeypatch):
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "store"))
    monkeypatch.setenv(INLINE_VARIABLE, "0")
    outs = [runs.root / name / "artifacts" / "pipeline" / "student" / "policy" for name in ("one", "two", "three")]

    def student(out):
        record = execute(load_stage("student"), {"teacher": [home / "policy"]}, {"layers": 1, "max_ratio": 1}, out)
        hand_on(out, record)
        return record

    first, again = student(outs[0]), student(outs[1])
    assert first == again
    assert reference_at(outs[0]) == reference_at(outs[1])
    shutil.rmtree(tmp_path / "store")
    assert student(outs[2]).started > first.started


@pytest.fixture
def started(tmp_path, monkeypatch):
    """`posttrain run` without the run: what the child would be given. A run takes its name from the second."""
    seen = []

    def child(run, watcher, more):
        seen.append((json.loads((run / cli.ARGUMENTS_FILE).read_text()), more))
        return 0

    numbers = iter(range(100))
    monkeypatch.setattr(cli, "_run_child", child)
    monkeypatch.setattr(cli, "_finish", lambda *_: None)
    monkeypatch.setattr(cli, "_new_run", lambda runs, recipe: made(runs / f"{recipe.name}-20260101-{next(numbers):06}"))

    def start(text=RECIPE, **options):
        recipe = parse_recipe(text, "small", load_stages())
        cli.run_recipe(recipe, ["--base", str(tmp_path)], str(tmp_path / "out"), None, [], **options)
        return seen[-1]

    return start


def made(path):
    path.mkdir(parents=True)
    return path


@pytest.mark.xdist_group("kfp")
def test_a_resumed_run_looks_at_the_earlier_ones_and_keeps_their_place(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = {RUNS_VARIABLE: str(tmp_path / "out" / "runs")}
    plain, environment = started()
    assert ("checkpoint_uri" in plain, environment) == (False, {})
    kept, _ = started(checkpoints="kept")
    assert kept["checkpoint_uri"] == str(tmp_path / "kept")
    assert started(resume=True) == (kept, runs)
    other = started(checkpoints="s3://bucket/other", resume=True)
    assert other == (kept | {"checkpoint_uri": "s3://bucket/other"}, runs)


@pytest.mark.xdist_group("kfp")
def test_checkpoints_of_a_recipe_that_trains_nothing_are_refused(started):
    text = "\n".join(line for line in RECIPE.splitlines() if "use: sft" not in line)
    with pytest.raises(ConfigError, match="no stage of small trains"):
        started(text, checkpoints="s3://bucket/kept")


STAGE = """
import pathlib, signal, time
def end(*_):
    time.sleep(0.5)
    pathlib.Path("kept").touch()
    raise SystemExit
signal.signal(signal.SIGTERM, end)
pathlib.Path("ready").touch()
time.sleep(60)
"""


def test_a_stage_that_is_told_to_end_is_waited_for(tmp_path):
    """The local runner ends at once; the stage that it started keeps its run first."""
    command = ["sh", "-c", '"$0" -c "$1" & wait', sys.executable, STAGE]
    child = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    cli._end(child)
    assert (tmp_path / "kept").exists()
    assert child.returncode == -signal.SIGTERM
    cli._end(child)  # which has ended
