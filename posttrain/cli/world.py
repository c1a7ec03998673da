"""`posttrain world`: a small world to try things in."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from posttrain.artifacts.artifact import whole_or_nothing
from posttrain.errors import ConfigError, nearest

WORLDS = ("chains", "countdown")  # modules of posttrain.worlds


def build_world(name: str, out: Path, seed: int) -> None:
    """Build a world into a new directory, with a bar.

    Raises:
        ConfigError: no world has that name.
    """
    if name not in WORLDS:
        raise ConfigError(f"no world is called {name!r}{nearest(name, WORLDS)}")
    from transformers.utils import logging

    build = import_module(f"posttrain.worlds.{name}").build
    logging.disable_progress_bar()
    with whole_or_nothing(out) as scratch, Progress(console=Console(stderr=True), transient=False) as bars:
        task = bars.add_task("pre-training the base", total=None)
        build(scratch, seed=seed, progress=lambda done, total: bars.update(task, completed=done, total=total))
    for item in sorted(out.iterdir()):
        print(item)
