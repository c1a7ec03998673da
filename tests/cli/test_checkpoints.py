"""`posttrain checkpoints`: what it prints of runs on a disk, and one line for every mistake."""

import boto3
import pytest

from posttrain.storage.checkpoints import Checkpoints
from posttrain.storage.manifest import Identity, World
from posttrain.storage.store import open_store
from tests.s3 import BUCKET, place, s3, s3_server

__all__ = ["place", "s3", "s3_server"]
pytestmark = pytest.mark.xdist_group("s3")

POLICY = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights" * 20_000}


@pytest.fixture
def checkpoints(posttrain):
    """Run `posttrain checkpoints …`; (exit code, stdout, stderr)."""
    return lambda *arguments: posttrain("checkpoints", *arguments)


@pytest.fixture
def kept(place):
    return filled(place)


def filled(uri):
    """Two runs of `sft` that differ in a setting, with 4 and 2 checkpoints."""
    for number, count in ((1, 4), (2, 2)):
        identity = Identity(stage="sft", parents={"init": "ab" * 32}, parameters={"learning_rate": number / 10})
        run = Checkpoints(open_store(f"{uri}/sft-{number}"), identity)
        run.claim()
        for step in range(10, 10 * count + 10, 10):
            files = run.add({name: [memoryview(content)] for name, content in {**POLICY, "own": b"%d" % step}.items()})
            run.commit(
                step,
                files,
                {"epoch": 1, "num_tokens": 96, "step": step, "eval_loss": step / 100},
                World(size=2, strategy="ddp"),
            )
    return uri


def test_runs_are_listed(checkpoints, kept):
    code, out, _ = checkpoints("ls", kept)
    head, first, second, *_ = out.splitlines()
    assert code == 0
    assert head.split()[:3] == ["run", "stage", "from"]
    assert first.split()[:7] == ["sft-1", "sft", "init=abababababab", "4", "40", "136.7", "KiB"]
    assert "eval_loss 0.4, epoch 1, num_tokens 96" in first
    assert "step" not in first
    assert first.split()[-1] == "parameters.learning_rate"
    assert second.split()[:5] == ["sft-2", "sft", "init=abababababab", "2", "20"]
    assert "learning_rate" not in second


def test_the_checkpoints_of_one_run_are_listed(checkpoints, kept):
    code, out, _ = checkpoints("ls", f"{kept}/sft-1")
    assert code == 0
    rows = [line.split() for line in out.splitlines()[1:5]]
    assert [(row[0], row[row.index("eval_loss") + 1]) for row in rows][::3] == [("10", "0.1,"), ("40", "0.4,")]
    assert (rows[0][3:5], rows[1][3:5]) == (["0", "B"], ["136.7", "KiB"])  # shared with the one before
    assert "sft from init=abababababab: 4 checkpoints, 136.7 KiB in all" in out


def test_what_is_damaged_is_told(checkpoints, kept):
    code, out, _ = checkpoints("verify", kept)
    assert (code, out) == (0, "6 checkpoints, all whole\n")
    store = open_store(f"{kept}/sft-1")
    blob = min((entry for entry in store.list("blobs/")), key=lambda entry: entry.size).name
    store.write(blob, b"99")
    code, out, error = checkpoints("verify", kept)
    assert code == 2
    assert out.startswith("sft-1: checkpoint ")
    assert ": other bytes than those whose SHA-256 is recorded" in out
    assert error.startswith(f"error: {kept}: 1 damaged, 5 whole;")


def test_pruning_says_what_it_does(checkpoints, kept):
    arguments = ("prune", kept, "--keep-last", "1", "--keep-best", "1", "--metric", "eval_loss", "--lower")
    code, out, _ = checkpoints(*arguments, "--dry-run")
    assert code == 0
    assert "sft-1: 2 of 4 checkpoints would be removed (8 B), and 0 objects that were left behind; kept: 10, 40" in out
    assert len(list(open_store(kept).list("sft-1/commits/"))) == 4
    assert not list(open_store(kept).list("sft-1/clock"))
    code, out, _ = checkpoints(*arguments)
    assert "sft-1: 2 of 4 checkpoints removed (8 B), and 0 objects that were left behind; kept: 10, 40" in out
    assert "sft-2: 0 of 2 checkpoints removed" in out
    assert len(list(open_store(kept).list("sft-1/commits/"))) == 2
    assert checkpoints("verify", kept)[:2] == (0, "4 checkpoints, all whole\n")


def test_a_checkpoint_becomes_a_directory(checkpoints, kept, tmp_path):
    code, out, _ = checkpoints("export", f"{kept}/sft-1", "--out", tmp_path / "policy", "--step", 20)
    assert (code, out) == (0, f"{tmp_path}/policy: step 20 of sft; bring it into recipes by the stage base\n")
    found = {file.name for file in (tmp_path / "policy").iterdir()}
    assert found == {*POLICY, ".checkpoint.json"}
    assert checkpoints("export", f"{kept}/sft-2", "--out", tmp_path / "newest")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("ls", "{}/nowhere"), "{}/nowhere: no checkpoints here, nor below"),
        (("verify", "{}/nowhere"), "{}/nowhere: no checkpoints here, nor below"),
        (("ls", "gs://bucket/x"), "gs://bucket/x: unknown scheme 'gs'"),
        (("export", "{}", "--out", "policy"), "{}: several runs are below it; give one of {}/sft-1, {}/sft-2"),
        (("export", "{}/sft-1", "--out", "policy", "--step", "7"), "no checkpoint of step 7; there are 10, 20, 30, 40"),
        (("prune", "{}", "--keep-last", "0"), "last=0: the newest checkpoint always stays; give 1 or more"),
        (("prune", "{}", "--keep-best", "1"), "best=1: by which metric?"),
    ],
)
def test_a_mistake_is_one_line(checkpoints, tmp_path, arguments, line):
    place = filled(str(tmp_path / "kept"))
    code, out, error = checkpoints(*(argument.replace("{}", place) for argument in arguments))
    assert (code, out) == (2, "")
    assert error.startswith("error: ")
    assert line.replace("{}", place) in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["ls", "verify", "prune"])
@pytest.mark.parametrize("wrong", ["bucket", "secret"])
def test_a_refusal_of_the_store_is_one_line(checkpoints, s3, monkeypatch, command, wrong):
    if wrong == "secret":
        if not s3.checks_credentials:
            pytest.skip("moto lets any secret in; install go or versitygw")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-value")
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    uri = f"s3://{'no-such-bucket' if wrong == 'bucket' else BUCKET}/kept"
    code, out, error = checkpoints(command, uri)
    assert code != 0
    assert out == ""
    assert error.startswith(f"error: {uri}: ")
    assert error.count("\n") == 1
    assert "wrong-secret-value" not in error
