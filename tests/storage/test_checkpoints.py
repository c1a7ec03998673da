"""Checkpoints in a store: on a disk and on a real S3 server."""

import hashlib
import json
import time

import pytest

from posttrain.errors import FENCED, ConfigError, ContractError, DamagedError, DataError, FencedError, StorageError
from posttrain.storage import history, index
from posttrain.storage.checkpoints import Checkpoints
from posttrain.storage.history import History
from posttrain.storage.layout import mark
from posttrain.storage.manifest import Identity, World
from posttrain.storage.retention import USUAL, Retention
from posttrain.storage.store import open_store
from tests.s3 import BUCKET, s3, s3_server
from tests.storage.writers import prune_beside, race

__all__ = ["s3", "s3_server"]
pytestmark = pytest.mark.xdist_group("s3")

IDENTITY = Identity(stage="sft", parents={"init": "a" * 64}, parameters={"learning_rate": 1e-4, "layers": (1, 2)})
BIG = b"frozen" * 20_000


@pytest.fixture(params=["disk", "s3"])
def store(request, tmp_path):
    if request.param == "disk":
        return open_store(str(tmp_path / "store"))
    request.getfixturevalue("s3")
    return open_store(f"s3://{BUCKET}/run")


@pytest.fixture
def disk(tmp_path):
    return open_store(str(tmp_path / "store"))


def writer(store, keep=USUAL, identity=IDENTITY):
    made = Checkpoints(store, identity, keep)
    made.claim()
    made.newest()
    return made


def save(checkpoints, step, metrics=None, **files):
    files = files or {"weights": b"weights of %d" % step}
    return checkpoints.commit(step, checkpoints.add({name: pieces(c) for name, c in files.items()}), metrics or {})


def pieces(content):
    return [memoryview(content)[:3], memoryview(content)[3:]]


def contents(directory):
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def blobs(store):
    return [entry.name for entry in store.list("blobs/")]


def steps(of):
    return [manifest.step for manifest in of.manifests()]


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


TWO = Retention(last=2, grace=0)


def test_a_prefix_of_several_runs_may_hold_runs_only(store):
    writer(open_store(f"{store.uri}/nightly/sft-1"))
    mark(store)
    writer(open_store(f"{store.uri}/sft-2"))
    mark(store)


def filled(store, keep=TWO, count=6, **common):
    run = writer(store, keep)
    for step in range(1, count + 1):
        save(run, step, {"eval_loss": abs(step - 3)}, weights=b"weights of %d" % step, **common)
    return run


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


@pytest.mark.parametrize("dies_after", range(2))
def test_pruning_that_dies_leaves_nothing_that_looks_whole_and_is_not(disk, monkeypatch, dies_after):
    run = filled(disk)
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
    assert len(blobs(disk)) == 2


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


def test_of_two_processes_one_makes_each_step(store):
    ends = race(store.uri, rounds=4)
    assert ends["won"] == 4
    assert ends.total() == 8


def test_a_run_is_pruned_beside_it_while_it_saves(store):
    assert prune_beside(store.uri, steps=40) > 0
