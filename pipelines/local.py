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
        components.load_component_from_file(str(pipeline))(**arguments)
    except RuntimeError as error:  # what the local runner raises for a failed task
        print(error)
        return False
    return True


def main() -> None:
    """Entry point of the child process."""
    logging.getLogger().setLevel(logging.INFO)
    pipeline, arguments, root = sys.argv[1:]
    ok = run_pipeline(Path(pipeline), json.loads(Path(arguments).read_text(encoding="utf-8")), Path(root))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
