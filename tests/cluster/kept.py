"""A pipeline of one stage of SFT that is kept in the bucket while it trains: what becomes of it when pods end early."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from posttrain.components.catalogue import load_stages
from posttrain.pipelines.compiler import compile_recipe
from posttrain.pipelines.scheduling import Scheduling

from posttrain.recipes.load import parse_recipe
from tests.cluster.backend import BUCKET, SCHEDULING, Backend
from tests.cluster.conftest import World

RECIPE = """
name: NAME
title: One stage that is kept
inputs: {base: {help: the policy}, demos: {help: demonstrations}}
stages:
  base_policy: {use: base, with: {uri: "${base}"}}
  demonstrations: {use: prepare, with: {uri: "${demos}", kind: trajectories}}
  sft_policy:
    use: sft
    parents: {init: base_policy, data: demonstrations}
    with: {max_steps: STEPS, batch_size: 32, learning_rate: 1.0e-3, max_length: 64, checkpoint_steps: EVERY}
"""


def starter(
    backend: Backend,
    world: World,
    folder: Path,
    name: str,
    steps: int,
    every: int,
    account: str = "",
    **scheduling: Any,
) -> Callable[..., str]:
    """Compiles the pipeline; what it returns starts it with arguments, and returns the run's id.

    Args:
        steps: of training, and between two checkpoints `every`.
        account: the service account of its pods; empty = the server's default.
    """
    text = RECIPE.replace("NAME", name).replace("STEPS", str(steps)).replace("EVERY", str(every))
    # One retry, at once: a killed pod's.
    settled = Scheduling(**SCHEDULING | {"retries": 1, "retry_backoff": "1s"} | scheduling)
    compile_recipe(parse_recipe(text, name, load_stages()), folder / "kept.yaml", settled)
    given = {name: world.uris[name] for name in ("base", "demos")}
    return lambda **arguments: backend.start(folder / "kept.yaml", given | arguments, name, account)


def record(backend: Backend, name: str, run: str) -> dict[str, Any]:
    """The record of the policy that a run made, out of the bucket where the backend keeps artifacts."""
    client = backend.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="mlpipeline", Prefix=f"v2/artifacts/{name}/")
    keys = [each["Key"] for page in pages for each in page.get("Contents", [])]
    [key] = [key for key in keys if f"/{run}/sft/" in key and key.endswith("/policy/posttrain.json")]
    found: dict[str, Any] = json.loads(client.get_object(Bucket="mlpipeline", Key=key)["Body"].read())
    return found


def wait_for_step(backend: Backend, checkpoints: str, steps: int) -> None:
    """Until so many steps are committed below a prefix of the bucket."""
    wanted = f"commits/{steps:010}.json"
    until = time.monotonic() + 900
    while time.monotonic() < until:
        listed = backend.client().list_objects_v2(Bucket=BUCKET, Prefix=checkpoints)
        if any(each["Key"].endswith(wanted) for each in listed.get("Contents", [])):
            return
        time.sleep(1)
    pytest.fail(f"step {steps} was not kept within 15 minutes")
