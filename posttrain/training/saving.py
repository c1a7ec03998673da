"""When a run is kept, and how: a copy in memory while training waits, sent from there by a thread while it goes on.

A save is due every so many steps or seconds, and at the end. There is never more than one under way: one that is due
meanwhile waits for the next step, and is counted; one by time so late that the end's would wait for it is left out. A
store that fails is warned of and counted, and training goes on, unless nothing could be kept for long. A refusal counts
as a fault, too: what was allowed when the run began may be so again, with the new key that the next pod gets. Whoever
ends the run by SIGTERM gets it kept first.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from posttrain.errors import StorageError
from posttrain.progress import Progress
from posttrain.storage.checkpoints import Checkpoints
from posttrain.storage.manifest import FileRef, World
from posttrain.storage.store import Source
from posttrain.training.ranks import Group, is_main


@dataclass(frozen=True)
class Cadence:
    """How often: every so many steps, or else seconds; and after how many without success a run is given up."""

    steps: int
    seconds: float
    patience: float


class Saver:
    """Keeps one run. Every process of a group has one, and calls it after the same steps.

    Args:
        files: what stays as it is from step to step and belongs into every checkpoint, as config and tokenizer.
        group: of the processes of the run.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        cadence: Cadence,
        world: World,
        files: Mapping[str, Source],
        progress: Progress,
        group: Group,
    ) -> None:
        from posttrain.training.snapshot import HostCopies

        self.counts: Counter[str] = Counter()  # of the run, whoever began it
        self.before = 0.0  # seconds for which others trained what this one goes on from
        self.waited = 0.0  # seconds that training waited
        self.stopped_at: int | None = None
        self._checkpoints, self._cadence, self._world = checkpoints, cadence, world
        self._progress, self._group = progress, group
        self._static = dict(files)
        self._copies = HostCopies()
        self._told_to_end = threading.Event()
        self._thread: threading.Thread | None = None
        self._reserving: threading.Thread | None = None  # of the memory for the copies, after the first step
        self._error: Exception | None = None
        self._began, self._steps = time.monotonic(), 0  # of this process
        self._committed = self._saved = self._began  # when a save last succeeded, and last began
        self._took = 0.0  # seconds from a save's begin to its commit, the last time
        self._late = self._swept = False

    def tell_to_end(self, *signal_and_frame: Any) -> None:
        """Have the run kept and ended after the step that it is at."""
        self._told_to_end.set()

    def tally(self) -> dict[str, Any]:
        """What the run counts, from the view of the checkpoint that is about to be made."""
        seconds = self.before + time.monotonic() - self._began
        return {"counts": self.counts + Counter(checkpoints=1), "seconds": seconds}

    def go_on(self, tally: dict[str, Any]) -> None:
        """Count on from what a checkpoint holds."""
        self.counts, self.before = Counter(tally["counts"]), tally["seconds"]

    def between_steps(self, trainer: Any) -> None:
        """Called after each step of the trainer: decides, together with the other processes, and saves.

        Raises:
            FencedError: somebody else keeps this run now.
            StorageError: nothing could be kept for too long.
        """
        began, step = time.monotonic(), trainer.state.global_step
        left = trainer.state.max_steps - step
        ends, self._steps = left <= 0, self._steps + 1
        told, due, busy = self._group.any(
            [self._told_to_end.is_set(), is_main() and self._due(step, left), self._busy()]
        )
        if told and not ends:
            self.stopped_at = step
            trainer.control.should_training_stop = True
        if told or ends:
            self.wait()
        self._raise_lasting()
        if busy and not (told or ends):
            self.counts["checkpoints_delayed"] += due and not self._late
            self._late |= due
        elif due or told or ends:
            self._save(trainer, step)
        elif self._reserving is None:
            self._reserving = threading.Thread(target=self._copies.reserve(trainer.snapshot()[1]), daemon=True)
            self._reserving.start()
        self.waited += time.monotonic() - began

    def finish(self) -> None:
        """Wait until what was last saved is kept.

        Raises:
            FencedError: somebody else keeps this run now.
            StorageError: the run was told to end, and its last step could not be kept.
        """
        self.wait()
        self._raise_lasting()
        if self._error and self.stopped_at is not None:
            raise StorageError(str(self._error)) from self._error

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the save under way."""
        if self._thread:
            self._thread.join(timeout)

    def _busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _due(self, step: int, left: int) -> bool:
        if self._cadence.steps:
            return self._late or step % self._cadence.steps == 0
        now = time.monotonic()
        until_end = left * (now - self._began) / self._steps
        return (self._late or now - self._saved >= self._cadence.seconds) and until_end > 2 * self._took

    def _raise_lasting(self) -> None:
        """What is not a store's passing fault, or did not pass for too long."""
        if self._error is None:
            return
        if not isinstance(self._error, StorageError):
            raise self._error
        silent = time.monotonic() - self._committed
        if silent > self._cadence.patience:
            raise StorageError(
                f"nothing could be kept for {silent:.0f} s (checkpoint_patience={self._cadence.patience:.0f}): "
                f"{self._error}"
            ) from self._error

    def _save(self, trainer: Any, step: int) -> None:
        self._saved, self._late = time.monotonic(), False
        if self._reserving:
            self._reserving.join()
        plain, tensors = trainer.snapshot()
        pieces = self._copies.copy(tensors)
        world = self._world.model_copy(update={"rollouts": trainer.has_rollouts})
        commit = partial(self._commit, step, metrics=_last_metrics(trainer), world=world)
        self._thread = threading.Thread(target=self._send, args=(step, plain, pieces, commit), daemon=True)
        self._thread.start()

    def _send(
        self,
        step: int,
        plain: dict[str, Any],
        pieces: dict[str, list[memoryview]],
        commit: Callable[[dict[str, FileRef]], None],
    ) -> None:
        """In the background: send this process's files; the first process commits everybody's."""
        _give_way()
        began = time.monotonic()
        sent = self._tried(lambda: self._sent(plain, pieces))
        everywhere = self._group.gathered(sent)
        failed = next((each for each in everywhere if isinstance(each, Exception)), None)
        if failed is None and is_main():
            refs = {name: ref for each in everywhere for name, ref in each.items()}
            failed = self._tried(lambda: commit(refs))
        self._error = next((each for each in self._group.gathered(failed) if each), None)
        if self._error is None:
            self._committed = time.monotonic()
            self._took = self._committed - began
            self.counts["checkpoints"] += 1
        else:
            self.counts["checkpoints_failed"] += 1
            self._progress.say(f"the checkpoint of step {step} failed: {self._error}")

    def _sent(self, plain: dict[str, Any], pieces: dict[str, list[memoryview]]) -> dict[str, FileRef]:
        texts = {name: [memoryview(json.dumps(value, default=float).encode())] for name, value in plain.items()}
        return self._checkpoints.add((self._static if is_main() else {}) | texts | pieces)

    def _commit(self, step: int, refs: dict[str, FileRef], metrics: dict[str, float], world: World) -> None:
        self._checkpoints.commit(step, refs, metrics, world)
        try:
            self._checkpoints.prune()
            if not self._swept:
                self._checkpoints.sweep()
                self._swept = True
        except StorageError as error:  # what should have gone is still there, and the next time goes
            self._progress.say(f"old checkpoints could not be removed: {error}")

    @staticmethod
    def _tried(do: Callable[[], Any]) -> Any:
        """What it returns, or raises: an error of this thread is the main one's to raise."""
        try:
            return do()
        except Exception as error:
            return error


def _last_metrics(trainer: Any) -> dict[str, float]:
    """What was last logged, for a checkpoint to be judged by."""
    logged = trainer.state.log_history[-1] if trainer.state.log_history else {}
    return {name: float(v) for name, v in logged.items() if isinstance(v, int | float) and math.isfinite(v)}


def _give_way() -> None:
    """Have Linux run this thread after those that train, where there are not enough cores for both."""
    if sys.platform == "linux":
        me = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, me, min(19, os.getpriority(os.PRIO_PROCESS, me) + 10))


@contextmanager
def told_to_end(tell: Callable[..., None]) -> Iterator[None]:
    """SIGTERM, which a pod gets that must go, tells instead of ending the process."""
    if threading.current_thread() is not threading.main_thread():  # others may not set signals
        yield
        return
    before = signal.signal(signal.SIGTERM, tell)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
