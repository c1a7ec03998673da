"""What several rooms of the cluster's tests begin with."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from examples.recipes.world import inputs
from tests.cluster.backend import BACKEND


@dataclass(frozen=True)
class World:
    """A small world here, and each of its inputs as a URI in the bucket."""

    folder: Path
    uris: dict[str, str]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Built and uploaded once: it takes minutes on a busy machine."""
    assert BACKEND is not None
    folder = tmp_path_factory.mktemp("cluster") / "world"
    local = inputs(folder)
    prefix = BACKEND.upload(folder, f"world-{int(time.time())}")
    return World(folder, {role: path.replace(str(folder), prefix) for role, path in local.items()})
