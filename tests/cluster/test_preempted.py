"""A training pod that is killed or deleted on a real backend: its stage goes on from the bucket to the same weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster import pods
from tests.cluster.backend import BACKEND, BUCKET, NAMESPACE, on_cluster
from tests.cluster.conftest import World
from tests.cluster.kept import record, starter, wait_for_step

pytestmark = on_cluster(3600)
NAME = "kept-sft"


@pytest.fixture(scope="module")
def start(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Starts the pipeline; returns the run's id."""
    assert BACKEND is not None
    return starter(BACKEND, world, tmp_path_factory.mktemp("kept"), NAME, 2000, 50)


@pytest.fixture(scope="module")
def undisturbed(start: Callable[..., str]) -> str:
    """The digest of the policy that nothing happened to."""
    assert BACKEND is not None
    run = start()
    assert BACKEND.ended(run)[0] == "SUCCEEDED"
    return str(record(BACKEND, NAME, run)["digest"])


def training(run: str, checkpoints: str, steps: int) -> Any:
    """The pod that trains, once so many steps are committed."""
    assert BACKEND is not None
    wait_for_step(BACKEND, checkpoints, steps)
    [pod] = pods.working(run, NAMESPACE)
    return pod


@pytest.mark.parametrize("end", [pods.kill, pods.delete, pods.delete_at_once])
def test_a_stage_that_is_ended_goes_on_and_makes_what_it_would_have_made(
    end: Callable[[Any], None], start: Callable[..., str], undisturbed: str
) -> None:
    assert BACKEND is not None
    prefix = f"checkpoints-{int(time.time())}"
    run = start(checkpoint_uri=f"s3://{BUCKET}/{prefix}")
    end(training(run, prefix, 300))
    state, retried = BACKEND.ended(run)[0], False
    if end is pods.delete_at_once and state == "FAILED":
        # KFP tries pods again that failed, and not those of which nothing is left: somebody presses Retry.
        BACKEND.retry(run)
        state, retried = BACKEND.ended(run)[0], True
    assert state == "SUCCEEDED"
    made = record(BACKEND, NAME, run)
    assert made["digest"] == undisturbed
    assert made["counts"]["resumed_from_step"] >= 300
    print(json.dumps({"end": end.__name__, "by_hand": retried, **made["counts"]}))
