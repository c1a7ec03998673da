"""Checkpoints as anybody sees, thins out, sweeps and exports them: on a disk and on a real S3 server."""

import json
import time

import pytest

from posttrain.errors import ConfigError, ContractError, DataError, StorageError
from posttrain.storage import history, index
from posttrain.storage.checkpoints import Checkpoints
from posttrain.storage.history import History
from posttrain.storage.retention import Retention
from tests.storage.kept import (
    BIG,
    IDENTITY,
    TWO,
    blobs,
    contents,
    filled,
    pieces,
    save,
    steps,
    writer,
)
from tests.storage.writers import prune_beside

pytestmark = pytest.mark.xdist_group("s3")


@pytest.mark.parametrize(
    ("keep", "stay"),
    [
        (Retention(last=2), [5, 6]),
        (Retention(last=1, every=3), [3, 6]),
        (Retention(last=1, best=2, metric="eval_loss", lower=True), [2, 3, 6]),
        (Retention(last=1, best=1, metric="eval_loss"), [6]),
        (Retention(last=1, best=3, metric="accuracy"), [6]),
        (Retention(last=None), [1, 2, 3, 4, 5, 6]),
    ],
)
def test_pruning_leaves_what_is_to_be_kept_and_its_blobs(disk, keep, stay):
    run = filled(disk, keep, frozen=BIG)
    promised = run.prune(dry=True)
    assert steps(run) == [1, 2, 3, 4, 5, 6]
    assert run.prune() == promised
    assert promised.steps == [step for step in range(1, 7) if step not in stay]
    assert (promised.blobs, promised.size) == (len(promised.steps), 12 * len(promised.steps))
    assert steps(run) == stay
    assert len(blobs(disk)) == len(stay) + 1
    assert all(run.verify(manifest) == [] for manifest in run.manifests())


def test_pruning_needs_no_grace_and_leaves_uncommitted_blobs(store):
    run = filled(store, Retention(last=1))
    pending = run.add({"weights": pieces(b"weights of 7")})
    History(store, Retention(last=1)).prune()  # as another process does
    assert len(blobs(store)) == 2
    assert run.commit(7, pending)
    assert [run.verify(manifest) for manifest in run.manifests()] == [[], []]


def test_the_newest_that_is_whole_is_never_pruned(disk):
    run = filled(disk)
    disk.delete([run.manifests()[-1].files["weights"].blob])
    History(disk, Retention(last=1)).prune()
    assert steps(run) == [5, 6]
    assert Checkpoints(disk, IDENTITY).newest().step == 5


def test_beside_a_manifest_that_cannot_be_read_no_blob_is_removed(disk):
    run = filled(disk)
    disk.write("commits/0000000003.json", json.dumps({"format": 2}).encode())
    fresh = History(disk, Retention(last=1, grace=0))
    assert fresh.prune().steps == [1, 2, 4, 5]
    assert "of format 2, which a newer posttrain wrote; upgrade" in fresh.unreadable[3]
    fresh.sweep()
    assert len(blobs(disk)) == 6
    assert run.verify(run.newest()) == []


@pytest.mark.parametrize(("batch", "dies_after"), [(250, 0), (250, 1), *((2, calls) for calls in range(5))])
def test_pruning_that_dies_leaves_nothing_that_looks_whole_and_is_not(disk, monkeypatch, batch, dies_after):
    monkeypatch.setattr(history, "_BATCH", batch)
    run = writer(disk, TWO)
    for step in range(1, 7):  # those that will go share a blob over all batches
        save(run, step, weights=b"weights of %d" % step, frozen=BIG + b"!" * (step < 5))
    delete, calls = disk.delete, []

    def dies(names):
        calls.append(list(names))
        if len(calls) > dies_after:
            delete(calls[-1][: len(calls[-1]) // 2])
            raise KeyboardInterrupt
        delete(calls[-1])

    with monkeypatch.context() as patched:
        patched.setattr(disk, "delete", dies)
        with pytest.raises(KeyboardInterrupt):
            run.prune()
    left = History(disk, Retention(last=2, grace=0))
    assert all(left.verify(manifest) == [] for manifest in left.manifests())
    assert steps(left)[-2:] == [5, 6]
    time.sleep(0.01)
    left.prune()
    left.sweep()
    assert steps(left) == [5, 6]
    assert len(blobs(disk)) == 3


def test_sweeping_removes_what_the_dead_left_and_nothing_young(store):
    run = filled(store, count=2)
    run.add({"weights": pieces(b"never committed")})
    writer(store, Retention(last=2, grace=3600)).sweep()
    assert len(blobs(store)) == 3
    swept = History(store, TWO)
    time.sleep(1.1)  # S3 tells times in seconds
    assert swept.sweep(dry=True) == 2
    assert swept.sweep() == 2  # a blob and the first claim
    assert len(blobs(store)) == 2
    assert [run.verify(manifest) for manifest in run.manifests()] == [[], []]


def test_a_checkpoint_that_was_swept_while_it_was_sent_is_not_committed(disk):
    run = writer(disk, Retention(grace=0))
    pending = run.add({"weights": pieces(b"slow")})
    time.sleep(0.01)
    assert History(disk, Retention(grace=0)).sweep() == 1
    with pytest.raises(StorageError, match=r"took so long that it was swept meanwhile \(weights: is missing\)"):
        run.commit(1, pending)
    assert steps(run) == []
    assert save(run, 1)


def test_what_was_set_aside_keeps_its_blobs_for_a_day(disk, monkeypatch):
    save(writer(disk), 10)
    anew = Checkpoints(disk, IDENTITY, Retention(grace=0.2))
    anew.claim()
    save(anew, 1)
    time.sleep(0.3)
    anew.sweep()
    assert len(blobs(disk)) == 2
    monkeypatch.setattr(history, "_ASIDE", 0)
    anew.sweep()
    assert len(blobs(disk)) == 1
    assert list(disk.list("aside/")) == []


def test_an_index_says_what_the_manifests_say(store, monkeypatch):
    monkeypatch.setattr(index, "SEGMENT", 4)
    run = filled(store, count=10)
    assert len(index.segments(store)) == 2
    alone = History(store)
    read = []
    monkeypatch.setattr(alone, "manifest", lambda step, look=alone.manifest: (read.append(step), look(step)))
    assert alone.manifests() == run.manifests()
    assert read == [9, 10]
    assert run.prune().steps == list(range(1, 9))
    run.sweep()
    assert index.segments(store) == {}


def test_a_step_that_is_made_again_is_not_the_one_in_the_index(disk, monkeypatch):
    monkeypatch.setattr(index, "SEGMENT", 4)
    filled(disk, count=4).prune()  # leaves a segment about four steps, two of which are gone
    assert len(index.segments(disk)) == 1
    anew = Checkpoints(disk, IDENTITY)
    anew.claim()
    save(anew, 1)
    assert History(disk).manifests() == [anew.newest()]
    assert index.segments(disk) == {}


def test_what_is_set_aside_is_in_no_index(disk, monkeypatch):
    monkeypatch.setattr(index, "SEGMENT", 4)
    run = filled(disk, count=6)
    disk.delete([manifest.files["weights"].blob for manifest in run.manifests()[3:]])
    retry = writer(disk)
    assert steps(retry) == [1, 2, 3]
    assert index.segments(disk) == {}
    save(retry, 4)
    assert [m.claim for m in History(disk).manifests()] == [1, 1, 1, 2]


def test_a_policy_is_exported_as_a_plain_directory(store, tmp_path):
    run = writer(store)
    policy = {"config.json": b"{}", "model.safetensors": b"w", "tokenizer.json": b"{}", "generation_config.json": b"{}"}
    save(run, 1, **policy, **{"optimizer.safetensors": b"o", "rank-00000.json": b"{}", "deep/config.json": b"{}"})
    run.export(run.newest(), tmp_path / "policy")
    found = contents(tmp_path / "policy")
    assert found.pop(".checkpoint.json").startswith(b'{\n "format": 1')
    assert found == policy
    with pytest.raises(ContractError, match="exists already"):
        run.export(run.newest(), tmp_path / "policy")


def test_what_holds_no_policy_is_not_exported(disk, tmp_path):
    run = filled(disk)
    with pytest.raises(ContractError, match=r"checkpoint 6 holds no policy by itself \(weights, …\); resume the run"):
        run.export(run.newest(), tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize("name", ["../escaped", "/escaped"])
def test_a_name_that_leads_out_is_refused(disk, tmp_path, name):
    run = writer(disk)
    save(run, 1, **{name: b"escaped"})
    with pytest.raises(DataError, match="leads out of its directory"):
        run.restore(run.newest(), tmp_path / "out" / "deep")
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("wrong", [{"last": 0}, {"best": 1}, {"every": -1}])
def test_a_retention_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError):
        Retention(**wrong)


def test_a_run_is_pruned_beside_it_while_it_saves(store):
    assert prune_beside(store.uri, steps=40) > 0
