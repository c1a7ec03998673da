"""A compiled pipeline under Kubeflow Pipelines' local runner, as `posttrain run` starts it: kept, killed, gone on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from posttrain.components.catalogue import load_stages
from posttrain.pipelines.compiler import compile_recipe
from posttrain.pipelines.scheduling import Scheduling

from posttrain.artifacts.record import REFERENCE_FILE, read_record
from posttrain.recipes.load import parse_recipe
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
