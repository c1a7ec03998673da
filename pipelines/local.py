"""Runs a compiled pipeline with Kubeflow Pipelines' local runner: each task a subprocess, the YAML a cluster would run.

`python -m posttrain.pipelines.local PIPELINE ARGUMENTS ROOT` is the process that `posttrain run` starts and watches.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import yaml

_CONTROL = "schedule_control_image"  # where a stage without a model runs: a parameter of each compiled recipe


def run_pipeline(pipeline: Path, arguments: dict[str, Any], root: Path) -> bool:
    """Run to the end; True if every task succeeded.

    Args:
        pipeline: compiled YAML.
        arguments: the pipeline's parameters.
        root: where tasks leave their artifacts.
    """
    from kfp import components, local

    # Placement means nothing here, and our images' names are not python's.
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    try:
        components.load_component_from_text(inputs_first(pipeline.read_text(encoding="utf-8")))(**arguments)
    except RuntimeError as error:  # what the local runner raises for a failed task
        print(error)
        return False
    return True


def inputs_first(pipeline: str) -> str:
    """A compiled pipeline in which all that reads what a person brought is done before anything samples or trains.

    A cluster starts both at once, and a wrong file fails its task within seconds. Here one task follows another, in the
    order of a hash table: it would be found after hours, or at once, by chance.
    """
    spec, *platforms = yaml.safe_load_all(pipeline)
    tasks = spec["root"]["dag"]["tasks"]
    waits = {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()}
    control = {name for name, task in tasks.items() if _CONTROL in _image(spec, task)}
    first: set[str] = set()
    while found := {name for name in control - first if waits[name] <= first}:
        first |= found
    for name in tasks.keys() - first:
        tasks[name]["dependentTasks"] = sorted(waits[name] | first)
    return str(yaml.safe_dump_all([spec, *platforms]))


def _image(spec: dict[str, Any], task: dict[str, Any]) -> str:
    """Empty for a group of tasks, which has none."""
    executor = spec["components"][task["componentRef"]["name"]].get("executorLabel", "")
    return str(spec["deploymentSpec"]["executors"].get(executor, {}).get("container", {}).get("image", ""))


def main() -> None:
    """Entry point of the child process."""
    logging.getLogger().setLevel(logging.INFO)
    pipeline, arguments, root = sys.argv[1:]
    ok = run_pipeline(Path(pipeline), json.loads(Path(arguments).read_text(encoding="utf-8")), Path(root))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
