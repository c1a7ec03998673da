"""`posttrain world`: a small world to try things in."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from posttrain.artifacts.artifact import whole_or_nothing
from posttrain.errors import ConfigError, nearest
from posttrain.storage.exchange import publish, refuse_others
from posttrain.storage.store import open_store
from posttrain.storage.uris import parse

WORLDS = ("chains", "countdown")  # modules of posttrain.worlds
_TRIED = ".posttrain-tried"  # whether anything may be written there


def build_world(name: str, out: str, seed: int) -> None:
    """Build a world and put it where a pipeline or a person wants it, with a bar.

    Args:
        out: a new directory, or `s3://bucket/prefix` with nothing below it.

    Raises:
        ConfigError: no world has that name.
        ContractError: something is there already.
        StorageError: the store failed or refused.
    """
    if name not in WORLDS:
        raise ConfigError(f"no world is called {name!r}{nearest(name, WORLDS)}")
    from transformers.utils import logging

    build = import_module(f"posttrain.worlds.{name}").build
    logging.disable_progress_bar()
    with _placed(out) as world, Progress(console=Console(stderr=True), transient=False) as bars:
        task = bars.add_task("pre-training the base", total=None)
        build(world, seed=seed, progress=lambda done, total: bars.update(task, completed=done, total=total))
        names = sorted(item.name for item in world.iterdir())
    for item in names:
        print(f"{out.rstrip('/')}/{item}")


@contextmanager
def _placed(out: str) -> Iterator[Path]:
    """A directory whose content is at a path or URI when all is well. A place that will not do is known at once."""
    place = parse(out)
    if place.scheme == "file":
        with whole_or_nothing(Path(place.path)) as scratch:
            yield scratch
        return
    store = open_store(out)
    refuse_others(store, ())
    store.write(_TRIED, b"")  # before a minute of training, not after it
    store.delete([_TRIED])
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        publish(Path(folder), out)
