"""Progress of a running stage: log lines in a pod, events for the bars that `posttrain run` draws."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

EVENTS_VARIABLE = "POSTTRAIN_EVENTS"
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_EVENTS = 0.2


class Progress:
    """Reports how far a stage is. With `POSTTRAIN_EVENTS` set, appends JSON lines to that file instead of logging."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._started = time.monotonic()
        self._last = 0.0
        path = os.environ.get(EVENTS_VARIABLE)
        self._events = Path(path) if path else None

    def update(self, done: int, total: int, what: str = "") -> None:
        """Say that `done` of `total` steps are done; cheap to call at every step."""
        now = time.monotonic()
        pause = _SECONDS_BETWEEN_EVENTS if self._events else _SECONDS_BETWEEN_LINES
        if done < total and now - self._last < pause:
            return
        self._last = now
        if self._events:
            self.event("progress", done=done, total=total, what=what)
        else:
            left = (now - self._started) * (total - done) / max(done, 1)
            self.say(f"{what} {done}/{total}" + (f", {left:.0f} s left" if done < total else ""))

    def event(self, event: str, **fields: Any) -> None:
        """Append one event; a single short write, so concurrent stages do not mix lines."""
        if self._events:
            line = json.dumps({"event": event, "stage": self.stage, "time": time.time(), **fields}) + "\n"
            with self._events.open("a", encoding="utf-8") as file:
                file.write(line)

    def say(self, text: str) -> None:
        """One log line."""
        print(f"[{self.stage}] {text}", file=sys.stderr, flush=True)


class Silence(Progress):
    """The progress of a process beside the one that reports."""

    def update(self, done: int, total: int, what: str = "") -> None:
        """Say nothing."""

    def event(self, event: str, **fields: Any) -> None:
        """Append nothing."""

    def say(self, text: str) -> None:
        """Print nothing."""
