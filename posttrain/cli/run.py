"""`posttrain run` and `posttrain compile`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from posttrain.cli.arguments import absolute, changed, parse_inputs, refuse_missing
from posttrain.cli.watch import Watcher
from posttrain.components.catalogue import load_stage, load_stages
from posttrain.errors import ConfigError, PosttrainError
from posttrain.progress import EVENTS_VARIABLE
from posttrain.recipes.execute import keeps_checkpoints
from posttrain.recipes.load import check_recipe, in_order
from posttrain.recipes.schema import Recipe
from posttrain.reuse import RUNS_VARIABLE

ARGUMENTS_FILE = "arguments.json"
_GRACE = 30.0  # seconds that stages are given to end, as Kubernetes gives pods


def compile_to(
    name: str,
    output: Path,
    rounds: int,
    scheduling: Path | None,
    settings: Path | None,
    changes: list[str],
    retrain: bool = False,
) -> None:
    """Compile a recipe, with changes, to YAML; or one of the pipelines that choose for themselves, by name."""
    from posttrain.pipelines.packages import compile_named
    from posttrain.pipelines.scheduling import read_scheduling

    if output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"-o {output}: a pipeline is YAML; name it *.yaml")
    placed = read_scheduling(scheduling)
    told = compile_named(name, output, placed, rounds, lambda r: changed(r, settings, changes), retrain=retrain)
    print(f"{output}: {told}")


def _changed(recipe: Recipe, settings: Path | None, changes: list[str]) -> Recipe:
    made = changed(recipe, settings, changes)
    check_recipe(made, recipe.name, load_stages())
    return made


def run_recipe(
    recipe: Recipe,
    arguments: list[str],
    out: str,
    settings: Path | None,
    changes: list[str],
    checkpoints: str = "",
    resume: bool = False,
) -> None:
    """Compile a recipe and run it here; show progress, then the table and the report's path.

    Args:
        checkpoints: where its training stages are kept while they train; one that was killed there goes on.
        resume: do not run again what earlier runs in `out` finished; without `checkpoints`, use the last run's.

    Raises:
        PosttrainError: inputs are wrong, or a stage failed.
    """
    recipe = _changed(recipe, settings, changes)
    runs = Path("runs" if "://" in out else out).absolute() / "runs"
    defaults = {"registry": absolute(out.rstrip("/") + "/registry")}
    inputs = parse_inputs(recipe, arguments, {k: v for k, v in defaults.items() if k in recipe.inputs})
    refuse_missing(recipe, inputs)
    if checkpoints and not any(keeps_checkpoints(load_stage(spec.use)) for spec in recipe.stages.values()):
        raise ConfigError(f"--checkpoints {checkpoints}: no stage of {recipe.name} trains; leave it out")
    kept = absolute(checkpoints) or (_last_checkpoints(runs, recipe) if resume else "")
    run = _new_run(runs, recipe)
    from posttrain.pipelines.compiler import compile_recipe
    from posttrain.pipelines.scheduling import Scheduling

    # Retries are for preempted pods; here they would only repeat a mistake after a pause.
    compile_recipe(recipe, run / "pipeline.yaml", Scheduling(retries=0))
    given = inputs | ({"checkpoint_uri": kept} if kept else {})
    (run / ARGUMENTS_FILE).write_text(json.dumps(given, indent=1), encoding="utf-8")
    watcher = Watcher(in_order(recipe), run / "events.jsonl")
    started = time.monotonic()
    code = _run_child(run, watcher, {RUNS_VARIABLE: str(runs)} if resume else {})
    if watcher.reused:
        print(f"not run again, as made before: {', '.join(watcher.reused)}")
    _finish(run, watcher, code)
    print(f"{len(watcher.seconds)} stages in {time.monotonic() - started:.0f} s")


def _last_checkpoints(runs: Path, recipe: Recipe) -> str:
    """Where the last run of the recipe kept its checkpoints, if it did."""
    earlier = sorted(runs.glob(f"{recipe.name}-[0-9]*-[0-9]*/{ARGUMENTS_FILE}"))
    given: dict[str, str] = json.loads(earlier[-1].read_text(encoding="utf-8")) if earlier else {}
    return given.get("checkpoint_uri", "")


def _new_run(runs: Path, recipe: Recipe) -> Path:
    run = runs / f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        run.mkdir(parents=True)
    except FileExistsError:
        raise ConfigError(f"{run}: a run started this very second; start again") from None
    return run


def _run_child(run: Path, watcher: Watcher, more: dict[str, str]) -> int:
    """The local runner in a process of its own, its log in run.log; its tasks write the events that we draw."""
    environment = {**os.environ, EVENTS_VARIABLE: str(run / "events.jsonl"), "TOKENIZERS_PARALLELISM": "false", **more}
    # Threads that spin while they wait make a shared machine ten times slower, and an idle one no faster.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A recipe reads models from directories only; without this, Transformers asks the Hub about every one of them.
    environment.setdefault("HF_HUB_OFFLINE", "1")
    command = [sys.executable, "-m", "posttrain.pipelines.local", "pipeline.yaml", ARGUMENTS_FILE, "artifacts"]
    with (run / "run.log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(
            command, cwd=run, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            with watcher.drawn():
                # The local runner would go on with other branches: the first failure ends the run.
                while child.poll() is None and not watcher.failure:
                    watcher.read()
                    time.sleep(0.2)
                watcher.read()
        finally:
            _end(child)
    return child.returncode


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the runner and its stages, whose runs that are kept are kept once more first."""
    with suppress(ProcessLookupError):  # none of them is left
        os.killpg(child.pid, signal.SIGTERM)
        child.wait()
        deadline = time.monotonic() + _GRACE
        while time.monotonic() < deadline:
            os.killpg(child.pid, 0)
            time.sleep(0.1)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _finish(run: Path, watcher: Watcher, code: int) -> None:
    from posttrain.cli.show import print_run, write_report

    if code:
        where = f"{run / 'run.log'}"
        reason = watcher.failure or _last_error(run / "run.log")
        raise PosttrainError(f"{reason} (log: {where}; with --resume, what was finished is not run again)")
    print_run(run)
    write_report(run, run / "report.html")


def _last_error(log: Path) -> str:
    lines = [
        line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if re.search(r"Error\b", line)
    ]
    return lines[-1].strip() if lines else "the run failed"
