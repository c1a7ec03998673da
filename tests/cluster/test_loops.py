"""`improve` and `ablation` on a real backend: pods, artifacts through a bucket, decisions taken while they run."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from posttrain.pipelines.ablation import compile_ablation
from posttrain.pipelines.compiler import compile_recipe
from posttrain.pipelines.scheduling import Scheduling

from posttrain.diagnosis.recommend import recipe_yaml
from posttrain.recipes.compose import StepUse, compose
from posttrain.recipes.loops import improve_recipe
from posttrain.recipes.schema import Recipe
from posttrain.worlds.countdown import build
from tests.cluster.backend import BACKEND, BUCKET, SCHEDULING, on_cluster

pytestmark = on_cluster(3600)
SETTINGS = yaml.safe_load((Path(__file__).parents[2] / "examples/countdown/improve.yaml").read_text(encoding="utf-8"))
SMALL = Scheduling(
    **SCHEDULING,
    loop_resources={"gpu_count": "0", "gpu_type": "nvidia.com/gpu", "memory": "0", "cpu": "0"},
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Countdown world as a prefix of the bucket."""
    assert BACKEND is not None
    home = tmp_path_factory.mktemp("cluster") / "world"
    build(home, seed=0)
    return BACKEND.upload(home, f"world-{int(time.time())}")


def inputs(prefix: str) -> dict[str, str]:
    return {
        "base": f"{prefix}/base",
        "problems": f"{prefix}/problems.jsonl",
        "held_out": f"{prefix}/held_out.jsonl",
        "demos": f"{prefix}/demos.jsonl",
    }


def test_improve_measures_follows_undoes_and_registers(world: str, tmp_path: Path) -> None:
    assert BACKEND is not None
    recipe: Recipe = improve_recipe(2).overlaid(SETTINGS)
    compile_recipe(recipe, tmp_path / "improve.yaml", SMALL)
    registry = f"s3://{BUCKET}/registry-{int(time.time())}"
    state, tasks = BACKEND.run(tmp_path / "improve.yaml", {**inputs(world), "registry": registry}, "improve")
    print(json.dumps(tasks, indent=1))
    assert state == "SUCCEEDED"
    assert "FAILED" not in tasks.values()
    listed = BACKEND.client().list_objects_v2(Bucket=BUCKET, Prefix=registry.split(f"{BUCKET}/")[1])
    assert any(entry["Key"].endswith("model/v1/model.safetensors") for entry in listed.get("Contents", []))


def test_ablation_compares_recipes_that_are_named_when_it_starts(world: str, tmp_path: Path) -> None:
    assert BACKEND is not None
    compile_ablation(tmp_path / "ablation.yaml", SMALL)
    candidates = [
        {"label": name, "recipe": recipe_yaml(compose("candidate", name, [StepUse(step=name)]))}
        for name in ("sft_replay", "rft")
    ]
    arguments = {
        **inputs(world),
        "candidates": candidates,
        "settings_stages": SETTINGS["follow"]["stage_settings"],
        "settings_evaluation": SETTINGS["evaluate"],
    }
    state, tasks = BACKEND.run(tmp_path / "ablation.yaml", arguments, "ablation")
    print(json.dumps(tasks, indent=1))
    assert state == "SUCCEEDED"
    assert "contrast" in tasks
