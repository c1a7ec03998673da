"""What a control stage costs a pipeline beside an empty component: chains of both on a cluster, in turns.

    PYTHONPATH=. python benchmarks/step_cost.py [--rounds 5] [--steps 5]

It needs the cluster of tests/cluster/backend.py, and KUBECONFIG. Both chains run on the control image; the stage is
`prepare` on eight problems in the bucket, with its record, metrics and page.

    step   seconds of a run by its steps: the platform's pods, what they fetch and upload, and the work
    main   seconds of the container in which the component runs, by its status (whole seconds: only means say much)

The bar is 1.5 s added to a step. Intervals are of rounds resampled.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from kfp import compiler, dsl
from posttrain.components.catalogue import load_stage
from posttrain.components.images import CONTROL
from posttrain.components.prepare import prepare
from posttrain.pipelines.scheduling import Scheduling, schedule

from tests.cluster.backend import NAMESPACE, SCHEDULE, SCHEDULING, Backend
from tests.cluster.pods import core

BAR = 1.5


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def empty() -> None:
    """Does nothing."""


def chain(side: str, steps: int, control: str, uri: str, out: Path) -> Path:
    """Compile a chain of `steps` tasks."""
    values = {**SCHEDULE, "schedule_control_image": control}

    @dsl.pipeline(name=f"step-cost-{side}")
    def pipeline() -> None:
        before = None
        for number in range(steps):
            task = empty() if side == "empty" else prepare(uri=uri, kind="problems", seed=number)
            schedule(task, load_stage("prepare"), Scheduling(**SCHEDULING), values)
            if before:
                task.after(before)
            before = task

    compiler.Compiler().compile(pipeline, str(out / f"{side}.yaml"))
    return out / f"{side}.yaml"


def measure(backend: Backend, pipeline: Path, steps: int) -> dict[str, float]:
    """Run a chain: mean seconds a step."""
    client = backend._kfp
    started = client.create_run_from_pipeline_package(str(pipeline), enable_caching=False, run_name=pipeline.stem)
    run = client.wait_for_run_completion(started.run_id, timeout=1800, sleep_duration=1)
    if run.state != "SUCCEEDED":
        raise RuntimeError(f"{pipeline.stem}: run {started.run_id} {run.state}")
    return {"step": (run.finished_at - run.created_at).total_seconds() / steps, "main": main_seconds(started.run_id)}


def main_seconds(run: str) -> float:
    """Mean seconds of the containers of a run's components."""
    selector = f"pipeline/runid={run},app.kubernetes.io/part-of=posttrain"
    pods = core().list_namespaced_pod(NAMESPACE, label_selector=selector).items
    ended = [each.state.terminated for pod in pods for each in pod.status.container_statuses if each.name == "main"]
    return statistics.mean((each.finished_at - each.started_at).total_seconds() for each in ended)


def interval(values: list[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean, and where 95% of the means of resampled rounds lie."""
    means = np.random.default_rng(seed).choice(values, (10_000, len(values))).mean(axis=1)
    return statistics.mean(values), *np.quantile(means, [0.025, 0.975])


def show(rounds: list[dict[str, dict[str, float]]]) -> None:
    """A table: each side, and what the stage adds."""
    for name in ("step", "main"):
        sides = {side: [each[side][name] for each in rounds] for side in ("empty", "stage")}
        added = [stage - empty for stage, empty in zip(sides["stage"], sides["empty"], strict=True)]
        for what, values in {**sides, "added": added}.items():
            mean, low, high = interval(values)
            verdict = f"  bar {BAR}: {'met' if mean <= BAR else 'missed'}" if what == "added" else ""
            print(f"{name:5} {what:6} {mean:6.2f} s [{low:.2f}, {high:.2f}]{verdict}")


def main() -> None:
    """Measure, and say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    backend = Backend.named()
    if backend is None:
        sys.exit("no cluster is named; see tests/cluster/backend.py")
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        rows = [{"prompt": f"What is {n} + {n}?", "verifier": "exact", "reference": str(2 * n)} for n in range(8)]
        (home / "data").mkdir()
        (home / "data/problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        uri = backend.upload(home / "data", f"step-cost-{int(time.time())}") + "/problems.jsonl"
        chains = {side: chain(side, options.steps, backend.control, uri, home) for side in ("empty", "stage")}
        for number in range(options.rounds):
            turn = list(chains.items())[:: 1 if number % 2 == 0 else -1]
            rounds.append({side: measure(backend, pipeline, options.steps) for side, pipeline in turn})
            print(
                f"{number + 1}/{options.rounds}: {rounds[-1]} (load {os.getloadavg()[0]:.1f})",
                file=sys.stderr,
                flush=True,
            )
    show(rounds)


if __name__ == "__main__":
    main()
