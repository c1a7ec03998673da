"""The command line: what it prints, and one line with an exit code for every mistake."""

import subprocess
import sys

import pytest
import yaml

from posttrain.artifacts.record import read_record
from posttrain.cli import main as cli
from posttrain.errors import StorageError
from posttrain.recipes.load import named_recipes
from tests.made import demo, prepared, problem

pytestmark = pytest.mark.xdist_group("kfp")


@pytest.fixture
def mistake(posttrain):
    """Run a command line that must be refused with code 2; the one line on stderr."""

    def call(*arguments):
        code, out, error = posttrain(*arguments)
        assert (code, out) == (2, "")
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error

    return call


def test_recipes_are_listed_and_shown(posttrain):
    code, out, _ = posttrain("recipes")
    assert code == 0
    assert all(name in out for name in named_recipes())
    code, out, _ = posttrain("recipes", "sft-rl-distil")
    assert code == 0
    for told in ("--held-out", "required", "sft_policy", "off-policy", "on-policy", "consolidation", "2604.07941"):
        assert told in out


def test_an_unknown_recipe_names_the_nearest(mistake):
    assert "did you mean 'sft-rl-distil'?" in mistake("recipes", "sft-rl-distill")
    assert "did you mean 'sft-rl-distil'?" in mistake("compile", "sft-rl-distill")
    assert "did you mean 'sft-rl-distil'?" in mistake("run", "sft-rl-distill", "--out", "nowhere")


def test_compile_writes_a_pipeline_with_the_changes(posttrain, tmp_path):
    output = tmp_path / "p.yaml"
    changes = ["--set", "sft_policy.epochs=9", "--set", "rl_policy.trainer_args.epsilon=0.3"]
    code, out, _ = posttrain("compile", "sft-rl-distil", "-o", output, *changes)
    assert (code, str(output) in out) == (0, True)
    spec = next(yaml.safe_load_all(output.read_text()))
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    assert inputs["settings_sft_policy"]["defaultValue"]["epochs"] == 9
    assert inputs["settings_rl_policy"]["defaultValue"]["trainer_args"] == {"epsilon": 0.3}


@pytest.mark.parametrize(
    ("change", "mentions"),
    [
        ("sft_polcy.epochs=2", ["no stage 'sft_polcy'", "did you mean 'sft_policy'?"]),
        ("sft_policy.epoch=2", ["epoch=2", "did you mean 'epochs'?"]),
        ("sft_policy.epochs=many", ["epochs='many'", "number"]),
        ("sft_policy.epochs", ["write STAGE.SETTING=VALUE"]),
        ("sft_policy=2", ["write STAGE.SETTING=VALUE"]),
    ],
)
def test_a_wrong_change_is_refused(mistake, tmp_path, change, mentions):
    output = tmp_path / "p.yaml"
    line = mistake("compile", "sft-rl-distil", "-o", output, "--set", change)
    assert [mention for mention in mentions if mention not in line] == []
    assert not output.exists()


def test_a_wrong_scheduling_file_is_refused(mistake, tmp_path):
    (tmp_path / "s.yaml").write_text("retrys: 3")
    line = mistake("compile", "sft-rl-distil", "-o", tmp_path / "p.yaml", "--scheduling", tmp_path / "s.yaml")
    assert "unknown setting retrys=3; did you mean 'retries'?" in line
    assert not (tmp_path / "p.yaml").exists()


@pytest.mark.parametrize("command", [("compile", "sft-replay", "-o"), ("world", "chains", "--out")], ids=" ".join)
def test_an_output_that_cannot_be_written_is_named(mistake, tmp_path, command):
    (tmp_path / "file").touch()
    line = mistake(*command, tmp_path / "file" / "p.yaml")
    assert str(tmp_path / "file") in line
    assert "check the path, " in line


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        ([], ["also needs", "--base (", "--held-out (", "--demos ("]),
        (["--bas", "x"], ["takes no '--bas'", "did you mean 'base'?"]),
        (["--base"], ["--base: a value is missing", "Hugging Face model directory"]),
        (["stray"], ["takes no 'stray'"]),
    ],
    ids=["missing", "misspelt", "no value", "stray"],
)
def test_a_run_needs_its_inputs(mistake, tmp_path, arguments, mentions):
    line = mistake("run", "sft-rl-distil", "--out", tmp_path / "out", *arguments)
    assert [mention for mention in mentions if mention not in line] == []
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    ("out", "more", "mention"),
    [
        ("gs://bucket/out", [], "gs://bucket/out/registry: unknown scheme 'gs'"),
        ("out", ["--registry", "s3://bucket"], "s3://bucket: give a bucket and a key"),
        ("out", ["--checkpoints", "s3:/bucket/kept"], "s3:/bucket/kept: write s3://bucket/key"),
        ("out", ["--base", "hf://model"], "hf://model: unknown scheme 'hf'"),
    ],
    ids=["out", "registry", "checkpoints", "base"],
)
def test_where_things_go_must_be_a_place_before_anything_starts(mistake, tmp_path, monkeypatch, out, more, mention):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    given = [word for name in ("base", "problems", "held-out", "demos") for word in (f"--{name}", "there")]
    assert mention in mistake("run", "sft-rl-distil", "--out", out, *given, *more)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_lineage_is_told_oldest_first(posttrain, tmp_path):
    held_out = prepared(tmp_path / "held_out", [problem(n) for n in range(5)], name="held_out_problems")
    data = prepared(
        tmp_path / "data", [demo(n) for n in range(20, 30)], "trajectories", {"held_out": [held_out]}, name="demos"
    )
    code, out, _ = posttrain("lineage", data)
    assert code == 0
    assert out.index("held_out_problems") < out.index("demos")
    assert read_record(data).digest[:12] in out
    assert "held_out=held_out_problems" in out


@pytest.mark.parametrize("path", ["missing", "."])
def test_lineage_of_what_is_no_artifact(mistake, tmp_path, path):
    assert "no posttrain.json, so no stage finished writing it" in mistake("lineage", tmp_path / path)


def test_lineage_of_a_broken_artifact(mistake, tmp_path):
    data = prepared(tmp_path / "data", [problem(1)])
    (data / "problems.parquet").unlink()
    assert "problems.parquet: is missing" in mistake("lineage", data)


def test_a_report_needs_a_run(mistake, tmp_path):
    assert "no run is there" in mistake("report", tmp_path / "missing")
    assert "no run is there" in mistake("report", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_world_names_those_there_are(mistake, tmp_path):
    for wrong, right in (("countdwn", "countdown"), ("chain", "chains")):
        assert f"did you mean '{right}'?" in mistake("world", wrong, "--out", tmp_path / "world")
    assert not (tmp_path / "world").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["recipe"],
        ["run"],
        ["run", "sft-rl-distil"],
        ["lineage"],
        ["report"],
        ["world", "countdown"],
        ["lineage", "a", "b"],
    ],
    ids=str,
)
def test_a_wrong_command_line_ends_with_2_and_no_traceback(posttrain, arguments):
    code, _, error = posttrain(*arguments)
    assert code == 2
    assert "Error" in error
    assert "Traceback" not in error


def test_a_fault_of_the_store_ends_with_75(posttrain, monkeypatch):
    def fails():
        raise StorageError("s3://bucket/key: gone")

    monkeypatch.setattr(cli, "app", fails)
    assert posttrain("recipes") == (75, "", "error: s3://bucket/key: gone\n")


def test_the_installed_command_is_this_one(tmp_path):
    command = [sys.executable, "-m", "posttrain.cli.main", "lineage", str(tmp_path / "missing")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
