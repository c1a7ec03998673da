"""Checkpoints as a run makes them and goes on from them: on a disk and on a real S3 server."""

import hashlib

import pytest

from posttrain.errors import FENCED, ConfigError, ContractError, DamagedError, FencedError
from posttrain.storage.checkpoints import Checkpoints
from posttrain.storage.history import History
from posttrain.storage.layout import mark
from posttrain.storage.manifest import World
from posttrain.storage.store import open_store
from tests.storage.kept import (
    BIG,
    IDENTITY,
    blobs,
    contents,
    pieces,
    save,
    steps,
    writer,
)
from tests.storage.writers import race

pytestmark = pytest.mark.xdist_group("s3")


def test_what_is_committed_is_restored(store, tmp_path):
    first = writer(store)
    (tmp_path / "file").write_bytes(b"of a path")
    refs = first.add(
        {"model.safetensors": pieces(BIG), "deep/rank-0.json": tmp_path / "file", "twin": tmp_path / "file"}
    )
    assert refs["model.safetensors"].sha256 == hashlib.sha256(BIG).hexdigest()
    assert first.commit(7, refs, {"loss": 0.5}, World(size=2, strategy="ddp"))

    second = Checkpoints(store, IDENTITY)
    newest = second.newest()
    assert (newest.step, newest.metrics, newest.world.size, newest.claim) == (7, {"loss": 0.5}, 2, 1)
    assert newest.identity == IDENTITY
    second.restore(newest, tmp_path / "all")
    assert contents(tmp_path / "all") == {
        "model.safetensors": BIG,
        "deep/rank-0.json": b"of a path",
        "twin": b"of a path",
    }
    second.restore(newest, tmp_path / "one", lambda name: name.startswith("deep/"))
    assert list(contents(tmp_path / "one")) == ["deep/rank-0.json"]


def test_nothing_is_there_before_the_first_commit(store):
    assert Checkpoints(store, IDENTITY).newest() is None
    first = writer(store)
    first.add({"weights": pieces(BIG)})
    assert Checkpoints(store, IDENTITY).newest() is None
    assert History(store).manifests() == []


def test_what_does_not_change_is_sent_once(store, tmp_path):
    run = writer(store)
    for step in (1, 2):
        save(run, step, model=BIG, optimizer=BIG[:70_000] + b"%d" % step)
    assert len(blobs(store)) == 3
    again = writer(store)  # a retry knows what it restored
    again.restore(again.newest(), tmp_path / "restored")
    save(again, 3, model=BIG)
    assert len(blobs(store)) == 3
    other = Checkpoints(store, IDENTITY)  # as does a process beside the first one
    other.restore(again.newest(), tmp_path / "beside")
    assert other.add({"model": pieces(BIG)}) == again.newest().files


def test_what_somebody_removed_is_sent_again(disk):
    run = writer(disk)
    save(run, 1, model=BIG)
    disk.delete(blobs(disk))
    save(run, 2, model=BIG)
    assert Checkpoints(disk, IDENTITY).newest().step == 2


def test_what_was_never_committed_is_sent_again(disk):
    run = writer(disk)
    save(run, 1, model=b"another")
    refs = [run.add({"model": pieces(BIG)})["model"] for _ in range(2)]
    assert refs[0].blob != refs[1].blob


def test_a_step_whose_checkpoint_is_damaged_is_made_again(disk):
    run = writer(disk)
    save(run, 1)
    disk.delete(blobs(disk))
    assert save(run, 1)
    assert run.verify(run.newest()) == []


def test_bytes_that_return_are_a_new_copy(disk):
    run = writer(disk)
    for step, content in ((1, BIG), (2, b"other"), (3, BIG)):
        save(run, step, model=content)
    old, _, new = (manifest.files["model"] for manifest in run.manifests())
    assert (old.sha256, old.size) == (new.sha256, new.size)
    assert old.blob != new.blob


def test_a_stale_writer_is_told(store):
    stale, newer = writer(store), writer(store)
    with pytest.raises(FencedError, match=r"another run writes here now \(claim 2, .*ours was 1\)") as raised:
        save(stale, 1)
    assert raised.value.exit_code == FENCED == 76
    assert save(newer, 1)
    assert steps(newer) == [1]


def test_of_two_that_passed_the_look_one_makes_the_step(store, monkeypatch):
    stale, newer = writer(store), writer(store)
    assert save(newer, 5, weights=b"newer")
    own = stale._own
    looks = iter([lambda: 1, own])
    with monkeypatch.context() as patched:
        patched.setattr(stale, "_own", lambda: next(looks)())
        with pytest.raises(FencedError):
            save(stale, 5, weights=b"stale")
    monkeypatch.setattr(stale, "_own", lambda: 1)
    assert not save(stale, 5, weights=b"stale")
    (there,) = History(store).manifests()
    assert there.claim == 2
    assert there.files["weights"].sha256 == hashlib.sha256(b"newer").hexdigest()


def test_a_commit_whose_answer_was_lost_is_ours(disk, monkeypatch):
    run = writer(disk)
    create = disk.create
    monkeypatch.setattr(disk, "create", lambda name, content: create(name, content) and "commits/" not in name)
    assert save(run, 1)


@pytest.mark.parametrize("damage", ["missing", "short", "manifest"])
def test_a_damaged_checkpoint_is_named_and_skipped(store, damage):
    run = writer(store)
    save(run, 1)
    save(run, 2)
    blob = run.manifests()[1].files["weights"].blob
    if damage == "missing":
        store.delete([blob])
    elif damage == "short":
        store.write(blob, b"weights")
    else:
        store.write("commits/0000000002.json", b"{")
    reader = Checkpoints(store, IDENTITY)
    assert reader.newest().step == 1
    said = {"missing": "checkpoint 2 is damaged: weights: is missing", "short": "weights: 7 bytes instead of 12"}
    assert said.get(damage, "commits/0000000002.json: not a manifest") in reader.skipped[0]
    assert [manifest.step for manifest in History(store).manifests()] == ([1] if damage == "manifest" else [1, 2])

    retry = writer(store)  # it puts the damaged one aside, so that its step can be made again
    assert steps(retry) == [1]
    assert save(retry, 2)
    assert Checkpoints(store, IDENTITY).newest().claim == 2


def test_wrong_bytes_are_found_when_they_are_fetched(store, tmp_path):
    run = writer(store)
    save(run, 1)
    save(run, 2)
    store.write(run.newest().files["weights"].blob, b"weights of X")
    newest = run.newest()
    assert newest.step == 2
    with pytest.raises(DamagedError, match="checkpoint 2 is damaged: weights: other bytes than those"):
        run.restore(newest, tmp_path / "wrong")
    assert run.verify(newest) == ["weights: other bytes than those whose SHA-256 is recorded"]
    before = run.newest(before=2)
    run.restore(before, tmp_path / "right")
    assert contents(tmp_path / "right") == {"weights": b"weights of 1"}
    assert run.verify(before) == []


def test_what_comes_wrong_once_is_fetched_again(disk, tmp_path, monkeypatch):
    run = writer(disk)
    save(run, 1)
    get, calls = disk.get, []

    def garbled(files):
        get(files)
        calls.append(files)
        if len(calls) == 1:
            for path in files.values():
                path.write_bytes(b"garbled")

    monkeypatch.setattr(disk, "get", garbled)
    run.restore(run.newest(), tmp_path / "out")
    assert contents(tmp_path / "out") == {"weights": b"weights of 1"}
    assert len(calls) == 2


def test_a_run_that_begins_anew_sets_the_old_one_aside(store):
    save(writer(store), 10)
    anew = Checkpoints(store, IDENTITY)
    anew.claim()
    assert steps(anew) == [10]
    assert save(anew, 4)
    assert Checkpoints(store, IDENTITY).newest().step == 4
    assert [entry.name for entry in store.list("aside/")] == ["aside/0000000010-000002.json"]


def test_another_runs_prefix_is_refused_with_the_differences(store):
    save(writer(store), 1)
    other = IDENTITY.model_copy(update={"parameters": {"learning_rate": 0.2}, "contract": 2})
    with pytest.raises(
        ContractError, match=r"holds checkpoints of another run \(contract: 1 there, 2 here, parameters"
    ):
        writer(store, identity=other)
    reader = Checkpoints(store, other)
    assert reader.newest() is None
    assert "parameters.learning_rate: 0.0001 there, 0.2 here" in reader.skipped[0]


def test_a_prefix_that_holds_something_else_is_refused(store):
    store.write("config.json", b"{}")
    with pytest.raises(ConfigError, match=r"holds something else \(config.json\); give checkpoints a prefix of their"):
        writer(store)
    assert [entry.name for entry in store.list()] == ["config.json"]


def test_a_prefix_of_several_runs_may_hold_runs_only(store):
    writer(open_store(f"{store.uri}/nightly/sft-1"))
    mark(store)
    writer(open_store(f"{store.uri}/sft-2"))
    mark(store)


def test_of_two_processes_one_makes_each_step(store):
    ends = race(store.uri, rounds=4)
    assert ends["won"] == 4
    assert ends.total() == 8
