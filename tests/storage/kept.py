"""Checkpoints in a store, as the tests of this folder make them."""

from posttrain.storage.checkpoints import Checkpoints
from posttrain.storage.manifest import Identity
from posttrain.storage.retention import USUAL, Retention

IDENTITY = Identity(stage="sft", parents={"init": "a" * 64}, parameters={"learning_rate": 1e-4, "layers": (1, 2)})
BIG = b"frozen" * 20_000
TWO = Retention(last=2, grace=0)


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


def filled(store, keep=TWO, count=6, **common):
    run = writer(store, keep)
    for step in range(1, count + 1):
        save(run, step, {"eval_loss": abs(step - 3)}, weights=b"weights of %d" % step, **common)
    return run
