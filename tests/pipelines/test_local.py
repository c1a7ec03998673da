"""A compiled pipeline under Kubeflow Pipelines' local runner, as `posttrain run` starts it: kept, killed, gone on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from graphlib import TopologicalSorter

import pytest
import yaml
from posttrain.components.catalogue import load_stages
from posttrain.pipelines.compiler import compile_recipe
from posttrain.pipelines.local import inputs_first
from posttrain.pipelines.scheduling import Scheduling

from posttrain.artifacts.record import REFERENCE_FILE, read_record
from posttrain.recipes.load import load_recipe, parse_recipe
from posttrain.recipes.loops import improve_recipe
from posttrain.reuse import RUNS_VARIABLE
from posttrain.storage.references import INLINE_VARIABLE, STORE_VARIABLE
from tests.made import demo, jsonl
from tests.tiny import tiny_policy

pytestmark = pytest.mark.xdist_group("kfp")

STEPS = 300
RECIPE = f"""
name: small
title: Small
inputs: {{base: {{help: The policy.}}, demos: {{help: Demonstrations.}}}}
stages:
  first: {{use: base, with: {{uri: "${{base}}"}}}}
  rows: {{use: prepare, with: {{uri: "${{demos}}", kind: trajectories}}}}
  tuned: {{use: sft, parents: {{init: first, data: rows}}, role: expansion,
    with: {{max_steps: {STEPS}, batch_size: 2, logging_steps: 1}}}}
"""


@pytest.mark.parametrize("name", ["sft-rl-distil", "deepseek-r1", "improve"])
def test_what_a_person_brought_is_read_before_anything_samples_or_trains(tmp_path, name):
    recipe = improve_recipe(2) if name == "improve" else load_recipe(name, load_stages())
    compile_recipe(recipe, tmp_path / "pipeline.yaml")
    compiled = (tmp_path / "pipeline.yaml").read_text(encoding="utf-8")
    (kept, before), (same, after) = apart(compiled), apart(inputs_first(compiled))
    assert same == kept
    order = [*TopologicalSorter(after).static_order()]  # an error where tasks wait for each other
    read = {"base", "prepare"}
    early = {task for task in order if room(task) in read and {room(each) for each in above(task, before)} <= read}
    assert len(early) > 1
    for task in order:
        assert after[task] == before[task] if task in early else after[task] == before[task] | early


def apart(pipeline):
    """A compiled pipeline without the order of its tasks, and task → those that it waits for."""
    spec, *platforms = yaml.safe_load_all(pipeline)
    tasks = spec["root"]["dag"]["tasks"]
    return [spec, *platforms], {name: set(task.pop("dependentTasks", [])) for name, task in tasks.items()}


def room(task):
    return re.sub(r"-\d+$", "", task)


def above(task, waits):
    return set.union(waits[task], *(above(each, waits) for each in waits[task]))


class Runs:
    def __init__(self, root):
        self.root = root
        self.inputs = {
            "base": str(tiny_policy(root / "model", "llama")),
            "demos": str(jsonl(root / "demos.jsonl", [demo(n) for n in range(8)])),
            "checkpoint_uri": str(root / "kept"),
            "checkpoint_steps": 20,
        }
        compile_recipe(parse_recipe(RECIPE, "small", load_stages()), root / "pipeline.yaml", Scheduling(retries=0))

    def start(self, name, **environment):
        run = self.root / "runs" / name
        run.mkdir(parents=True)
        (run / "arguments.json").write_text(json.dumps(self.inputs))
        command = [sys.executable, "-m", "posttrain.pipelines.local", self.root / "pipeline.yaml", "arguments.json"]
        with (run / "run.log").open("w") as log:
            return run, subprocess.Popen(
                [*map(str, command), "artifacts"],
                cwd=run,
                env={**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, name, **environment):
        run, child = self.start(name, **environment)
        assert child.wait(300) == 0, (run / "run.log").read_text()
        (policy,) = run.glob("artifacts/*/sft/policy")
        return run, policy, (run / "run.log").read_text()

    def commits(self):
        return sorted(self.root.glob("kept/tuned-*/commits/*.json"))


def test_a_killed_pipeline_goes_on_from_its_checkpoint_and_ends_as_if_it_had_not_been(tmp_path):
    runs = Runs(tmp_path)
    killed, child = runs.start("killed")
    deadline = time.monotonic() + 120
    while not runs.commits():
        assert child.poll() is None, (killed / "run.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert not list(killed.glob("artifacts/*/sft/policy"))
    # The next run takes over what was finished, goes on with the rest, and hands it on by reference.
    environment = {RUNS_VARIABLE: str(tmp_path / "runs"), STORE_VARIABLE: str(tmp_path / "store"), INLINE_VARIABLE: "0"}
    _, resumed, log = runs.run("resumed", **environment)
    assert "going on from step " in log
    assert read_record(resumed).counts["resumed_from_step"] < STEPS
    assert sorted(file.name for file in resumed.iterdir()) == ["posttrain.json", REFERENCE_FILE]
    # Kept or not, killed or not, it is the same artifact.
    del runs.inputs["checkpoint_uri"]
    _, undisturbed, log = runs.run("undisturbed")
    assert "going on from" not in log
    assert read_record(undisturbed).id == read_record(resumed).id
    assert read_record(undisturbed).files["model.safetensors"] == read_record(resumed).files["model.safetensors"]
