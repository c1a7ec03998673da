"""Bars for a running recipe, drawn from the events that its stages write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Watcher:
    """Follows the events file of a run. `failure` is the message of the stage that failed, if one did.

    `reused` are the stages that an earlier run had made.
    """

    def __init__(self, stages: list[str], events: Path) -> None:
        self.failure = ""
        self.seconds: dict[str, float] = {}
        self.reused: list[str] = []
        self._events = events
        self._offset = 0
        self._console = Console(stderr=True)
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[what]}"),
            TimeElapsedColumn(),
            console=self._console,
        )
        width = max(map(len, stages))
        self._tasks: dict[str, TaskID] = {
            name: self._bars.add_task(name.ljust(width), total=None, start=False, visible=False, what="")
            for name in stages
        }

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Draw the bars while the block runs."""
        with self._bars:
            yield

    def read(self) -> None:
        """Take in what was written since the last call."""
        if not self._events.is_file():
            return
        with self._events.open(encoding="utf-8") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith("\n"):
                    break
                self._offset += len(line.encode())
                self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        task = self._tasks.get(event["stage"])
        if task is None:
            return
        kind = event["event"]
        if kind == "start":
            self._bars.start_task(task)
            self._bars.update(task, visible=True, what="starting")
        elif kind == "progress":
            self._bars.update(task, total=event["total"], completed=event["done"], what=event["what"])
        elif kind == "done":
            self.seconds[event["stage"]] = event["seconds"]
            how = f"done from step {event['from_step']}" if event.get("from_step") else "done"
            if event.get("reused"):
                how = "reused"
                self.reused.append(event["stage"])
            total = self._bars.tasks[task].total or 1
            self._bars.update(task, total=total, completed=total, what=how)
            self._bars.stop_task(task)
            if not self._console.is_terminal:
                self._console.print(f"{event['stage']}: {how} in {event['seconds']:.1f} s")
        elif kind == "failed":
            self.failure = f"{event['stage']}: {event['message']}"
            self._bars.update(task, visible=True, what="[red]failed")
            self._bars.stop_task(task)
