"""Checkpoints in a store: do they stay quick as they grow many, and does one of two writers win each step?

    PYTHONPATH=. python benchmarks/checkpoints.py [--checkpoints 10000] [--rounds 100] [--only growth|writers]
        [--where disk|versitygw]

Both on a disk and on versitygw on loopback. Growth fills a prefix with checkpoints, by the library itself, of a blob
each and one that all share; then it does, each in a process that has seen nothing: listing all (`manifests`), resuming
(`newest`), sweeping, and pruning to the last 3, the best 3 and every 1000th. Writers: two real processes write to one
prefix, round after round; that each step is made by one of them, and of its files alone, is asserted. Then a run saves
as fast as it can while another process leaves it its newest checkpoint only, which is verified after each save.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from posttrain.storage.checkpoints import Checkpoints
from posttrain.storage.history import History
from posttrain.storage.manifest import FileRef, Identity
from posttrain.storage.retention import Retention
from posttrain.storage.store import open_store
from tests import s3
from tests.storage.writers import prune_beside, race

IDENTITY = Identity(stage="sft", parameters={f"setting_{n}": n for n in range(40)})
KEEP = Retention(last=3, best=3, metric="eval_loss", lower=True, every=1000)


def fill(uri: str, count: int) -> None:
    """As a run that keeps everything does."""
    run = Checkpoints(open_store(uri), IDENTITY)
    run.claim()
    run.newest()
    shared = run.add({"model.safetensors": [memoryview(b"frozen" * 20_000)]})
    for step in range(count):
        own: dict[str, FileRef] = run.add({"rank-00000.json": [memoryview(b"%d" % step)]})
        run.commit(step, shared | own, {"eval_loss": abs(step - count / 2)})


def listing(uri: str) -> str:
    return f"{len(History(open_store(uri)).manifests())} checkpoints"


def resuming(uri: str) -> str:
    newest = Checkpoints(open_store(uri), IDENTITY).newest()
    assert newest
    return f"step {newest.step}"


def pruning(uri: str) -> str:
    pruned = History(open_store(uri), KEEP).prune()
    return f"{len(pruned.steps)} checkpoints and {pruned.blobs} blobs removed"


def sweeping(uri: str) -> str:
    return f"{History(open_store(uri)).sweep()} objects removed"


WORK: dict[str, Callable[[str], str]] = {
    "listing": listing,
    "resuming": resuming,
    "sweeping": sweeping,
    "pruning": pruning,
}


def timed(name: str, uri: str) -> None:
    """One kind of work in this process, libraries loaded and the client connected before the clock starts."""
    open_store(uri).read("nothing")
    started, before = time.monotonic(), time.process_time()
    what = WORK[name](uri)
    seconds, own = time.monotonic() - started, time.process_time() - before
    print(f"{name:9} {seconds:6.2f} s  ({own:.2f} s of it this process's)  {what}", flush=True)


@contextmanager
def stores() -> Iterator[dict[str, str]]:
    """A prefix on a disk and one in versitygw."""
    with tempfile.TemporaryDirectory() as home, s3.versitygw(Path(home)) as server:
        os.environ.update(server.environment)
        server.client.create_bucket(Bucket=s3.BUCKET)
        yield {"disk": f"{home}/disk", "versitygw": f"s3://{s3.BUCKET}/checkpoints"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--only", choices=["growth", "writers"])
    parser.add_argument("--where", choices=["disk", "versitygw"])
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        timed(*chosen.work)
        return
    with stores() as places:
        for where, uri in places.items():
            if chosen.where not in (None, where):
                continue
            print(f"{where}, load {os.getloadavg()[0]:.1f}", flush=True)
            if chosen.only != "growth":
                started = time.monotonic()
                ends = race(f"{uri}/writers", chosen.rounds)
                seconds = time.monotonic() - started
                print(f"writers   {seconds:6.2f} s  {chosen.rounds} rounds, {dict(ends)}", flush=True)
                started = time.monotonic()
                removed = prune_beside(f"{uri}/pruned", 10 * chosen.rounds)
                seconds = time.monotonic() - started
                print(f"pruner    {seconds:6.2f} s  {removed} removed beside {10 * chosen.rounds} saves", flush=True)
            if chosen.only != "writers":
                started = time.monotonic()
                fill(f"{uri}/growth", chosen.checkpoints)
                print(f"filling   {time.monotonic() - started:6.2f} s", flush=True)
                for name in WORK:
                    subprocess.run([sys.executable, __file__, "--work", name, f"{uri}/growth"], check=True)


if __name__ == "__main__":
    main()
