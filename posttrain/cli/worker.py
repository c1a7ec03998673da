"""`posttrain worker`, a stage from URIs to a URI, and `posttrain rank`, one process of a group."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from posttrain.artifacts.digests import RECORD_FILE
from posttrain.components.catalogue import load_stage
from posttrain.errors import ConfigError, ContractError
from posttrain.stage import execute, join
from posttrain.storage import fetch, publish, read_text, write_text
from posttrain.training.hardware import Nodes
from posttrain.training.launch import take_part


def end_when_told() -> None:
    """End with SIGTERM: the first process of a container ignores it otherwise, and takes its whole grace period."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def run_worker(name: str, parents: list[str], settings: str, out: str, page: str, once: bool) -> None:
    """Run a stage; on the first node its artifact goes to `out` and its page to `page`, on the others nothing does.

    Args:
        once: an artifact that is at `out` already is this stage's, and there is nothing to do: a node may be started
            again after the first one was done.

    Raises:
        PosttrainError: settings, parents or the stage's work.
        ContractError: an artifact is at `out` already.
    """
    stage, chosen = load_stage(name), _settings(settings)
    first = Nodes.from_environment().rank == 0
    if (first or once) and read_text(f"{out.rstrip('/')}/{RECORD_FILE}") is not None:
        if once:
            return
        raise ContractError(f"{out}: an artifact is there already; choose another output or remove it")
    with tempfile.TemporaryDirectory(prefix="posttrain-worker-") as folder:
        fetched = _fetched(parents, Path(folder))
        if not first:
            join(stage, fetched, chosen)
            return
        made, shown = Path(folder) / "made", Path(folder) / "page.html"
        execute(stage, fetched, chosen, made, shown)
        if page:
            write_text(page, shown.read_text(encoding="utf-8"))
        publish(made, out)  # last: who finds it finds the page, too


def _settings(text: str) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--settings: not JSON ({error})") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"--settings: {type(settings).__name__} instead of an object")
    return settings


def _fetched(parents: list[str], folder: Path) -> dict[str, list[Path]]:
    """Role → local paths, several of a role in the order given."""
    paths: dict[str, list[Path]] = {}
    for number, given in enumerate(parents):
        role, sign, uri = given.partition("=")
        if not (sign and role and uri):
            raise ConfigError(f"--parent {given}: give ROLE=URI")
        paths.setdefault(role, []).append(fetch(uri, folder / str(number)))
    return paths


def run_rank(folder: Path) -> None:
    """Be one process of a group."""
    take_part(folder, load_stage)
