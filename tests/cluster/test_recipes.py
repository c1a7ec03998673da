"""Named recipes on a real backend, in miniature: every stage in a pod of its own, artifacts through a bucket."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from posttrain.components.catalogue import load_stages
from posttrain.pipelines.compiler import compile_recipe
from posttrain.pipelines.scheduling import Scheduling

from posttrain.recipes.load import load_recipe
from posttrain.registry import open_registry
from tests.cluster.backend import BACKEND, BUCKET, OPEN, SCHEDULING, TINY, on_cluster
from tests.cluster.conftest import World

pytestmark = on_cluster(3600)


@pytest.mark.parametrize(
    "name", ["sft-rl-distil", "search-transfer", "stored-logits", "iterative-dpo", "constitutional-ai"]
)
def test_a_recipe_runs_to_its_end(name: str, world: World, tmp_path: Path) -> None:
    assert BACKEND is not None
    recipe = load_recipe(name, load_stages()).overlaid(TINY | OPEN)
    pipeline = tmp_path / f"{name}.yaml"
    compile_recipe(recipe, pipeline, Scheduling(**SCHEDULING))
    arguments = {role: world.uris[role] for role in recipe.inputs if role in world.uris}
    arguments |= {"registry": f"s3://{BUCKET}/registry-{name}-{int(time.time())}"}
    state, tasks = BACKEND.run(pipeline, arguments, name)
    print(json.dumps(tasks, indent=1))
    assert state == "SUCCEEDED"
    assert "FAILED" not in tasks.values()
    # The backend may say that a run has succeeded before it says so of its last tasks: the registry knows.
    assert open_registry(arguments["registry"]).champion(str(recipe.inputs["model"].default))
