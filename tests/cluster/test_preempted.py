"""A training pod that is killed or deleted on a real backend: its stage goes on from the bucket to the same weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from posttrain.components.catalogue import load_stages
from posttrain.pipelines.compiler import compile_recipe
from posttrain.pipelines.scheduling import Scheduling

from posttrain.recipes.load import parse_recipe
from tests.cluster import pods
from tests.cluster.backend import BUCKET, NAMESPACE, SCHEDULING, Backend
from tests.cluster.conftest import World

BACKEND = Backend.named()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(BACKEND is None, reason="no cluster is named; see tests/cluster/backend.py"),
    pytest.mark.timeout(3600),
]
RECIPE = """
name: kept-sft
title: One stage that is kept
inputs: {base: {help: the policy}, demos: {help: demonstrations}}
stages:
  base_policy: {use: base, with: {uri: "${base}"}}
  demonstrations: {use: prepare, with: {uri: "${demos}", kind: trajectories}}
  sft_policy:
    use: sft
    parents: {init: base_policy, data: demonstrations}
    with: {max_steps: 2000, batch_size: 32, learning_rate: 1.0e-3, max_length: 64, checkpoint_steps: 50}
"""


@pytest.fixture(scope="module")
def start(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Starts the pipeline; returns the run's id."""
    assert BACKEND is not None
    folder = tmp_path_factory.mktemp("kept")
    recipe = parse_recipe(RECIPE, "kept", load_stages())
    # One retry, at once: a killed pod's.
    compile_recipe(recipe, folder / "kept.yaml", Scheduling(**SCHEDULING | {"retries": 1, "retry_backoff": "1s"}))
    given = {name: world.uris[name] for name in ("base", "demos")}
    return lambda **arguments: BACKEND.start(folder / "kept.yaml", given | arguments, "kept")


def record(run: str) -> dict[str, Any]:
    """The record of the policy that a run made, out of the bucket where the backend keeps artifacts."""
    assert BACKEND is not None
    client = BACKEND.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="mlpipeline", Prefix="v2/artifacts/kept-sft/")
    keys = [each["Key"] for page in pages for each in page.get("Contents", [])]
    [key] = [key for key in keys if f"/{run}/sft/" in key and key.endswith("/policy/posttrain.json")]
    found: dict[str, Any] = json.loads(client.get_object(Bucket="mlpipeline", Key=key)["Body"].read())
    return found


@pytest.fixture(scope="module")
def undisturbed(start: Callable[..., str]) -> str:
    """The digest of the policy that nothing happened to."""
    assert BACKEND is not None
    run = start()
    assert BACKEND.ended(run)[0] == "SUCCEEDED"
    return str(record(run)["digest"])


def training(run: str, checkpoints: str, steps: int) -> Any:
    """The pod that trains, once so many steps are committed."""
    assert BACKEND is not None
    wanted = f"commits/{steps:010}.json"
    until = time.monotonic() + 900
    while time.monotonic() < until:
        listed = BACKEND.client().list_objects_v2(Bucket=BUCKET, Prefix=checkpoints)
        if any(each["Key"].endswith(wanted) for each in listed.get("Contents", [])):
            [pod] = pods.working(run, NAMESPACE)
            return pod
        time.sleep(1)
    pytest.fail(f"step {steps} was not kept within 15 minutes")


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
    made = record(run)
    assert made["digest"] == undisturbed
    assert made["counts"]["resumed_from_step"] >= 300
    print(json.dumps({"end": end.__name__, "by_hand": retried, **made["counts"]}))
