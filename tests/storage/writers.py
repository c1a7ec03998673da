"""Processes that write or prune one run's checkpoints at once, round after round, and what came of every step."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from typing import Any

from posttrain.errors import FencedError
from posttrain.storage.checkpoints import Checkpoints
from posttrain.storage.history import History
from posttrain.storage.manifest import Identity
from posttrain.storage.retention import Retention
from posttrain.storage.store import open_store

IDENTITY = Identity(stage="sft")
_NEWEST = Retention(last=1)
_PAUSE = 0.02  # seconds at most, at random: so that the one overtakes the other at every point


def race(uri: str, rounds: int) -> Counter[str]:
    """How the writers fared; every step is checked.

    Returns:
        How often a writer made a step, found it made ("yielded"), or was told that it is not the writer ("fenced").
    """
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(2), context.Queue()
    writers = [context.Process(target=_write, args=(uri, name, rounds, barrier, told)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    ends: dict[int, dict[str, str]] = {}
    for _ in range(2 * rounds):
        step, name, end = told.get(timeout=60)
        ends.setdefault(step, {})[name] = end
    for writer in writers:
        writer.join()
    history = History(open_store(uri))
    manifests = {manifest.step: manifest for manifest in history.manifests()}
    assert sorted(manifests) == list(range(rounds)), "a step is missing"
    for step, manifest in manifests.items():
        won = [name for name, end in ends[step].items() if end == "won"]
        assert len(won) == 1, f"step {step}: {ends[step]}"
        assert history.verify(manifest) == [], f"step {step} is damaged"
        assert manifest.metrics == {won[0]: step}, f"step {step} is not its winner's"
        assert {name.partition("-")[0] for name in manifest.files} == {won[0]}, f"step {step} is a mixture"
    return Counter(end for round_ends in ends.values() for end in round_ends.values())


def _write(uri: str, name: str, rounds: int, barrier: Any, told: Any) -> None:
    chance = random.Random(name)
    for step in range(rounds):
        barrier.wait(60)
        run = Checkpoints(open_store(uri), IDENTITY)
        time.sleep(chance.uniform(0, _PAUSE))
        run.claim()
        run.newest()
        content = f"{name} {step}".encode() * 1000
        files = run.add({f"{name}-{part}": [memoryview(content + b"%d" % part)] for part in range(3)})
        time.sleep(chance.uniform(0, _PAUSE))
        try:
            told.put((step, name, "won" if run.commit(step, files, {name: step}) else "yielded"))
        except FencedError:
            told.put((step, name, "fenced"))


def prune_beside(uri: str, steps: int) -> int:
    """A run saves as fast as it can, contents that go and come back, while another process leaves the newest only.

    Returns:
        How many checkpoints the other process removed; the newest is whole after every save, and in the end alone.
    """
    context = multiprocessing.get_context("spawn")
    begun, ended, removed = context.Event(), context.Event(), context.Queue()
    pruner = context.Process(target=_prune, args=(uri, begun, ended, removed))
    run = Checkpoints(open_store(uri), IDENTITY, _NEWEST)
    run.claim()
    run.newest()
    pruner.start()
    assert begun.wait(60)
    for step in range(steps):
        parts = {"always": b"a" * 70_000, "at times": b"%d" % (step // 3 % 2) * 70_000, "own": b"%d" % step}
        assert run.commit(step, run.add({name: [memoryview(part)] for name, part in parts.items()}))
        newest = run.newest()
        assert newest is not None and newest.step == step and run.verify(newest) == []
    ended.set()
    count: int = removed.get(timeout=60)
    pruner.join()
    run.prune()
    assert sorted(entry.name for entry in run.store.list("blobs/")) == sorted(ref.blob for ref in newest.files.values())
    return count


def _prune(uri: str, begun: Any, ended: Any, removed: Any) -> None:
    count, last = 0, False
    while not last:
        last = ended.is_set()
        count += len(History(open_store(uri), _NEWEST).prune().steps)
        begun.set()
    removed.put(count)
