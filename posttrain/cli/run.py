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

from posttrain.components.catalogue import load_stages

from posttrain.cli.arguments import changed, parse_inputs, refuse_missing
from posttrain.cli.watch import Watcher
from posttrain.errors import ConfigError, PosttrainError
from posttrain.progress import EVENTS_VARIABLE
from posttrain.recipes.load import check_recipe, in_order, load_recipe
from posttrain.recipes.loops import diagnose_recipe, improve_recipe
from posttrain.recipes.schema import Recipe


def compile_to(
    name: str, output: Path, rounds: int, scheduling: Path | None, settings: Path | None, changes: list[str]
) -> None:
    """Compile a recipe, with changes, to YAML; or one of the pipelines that choose for themselves, by name."""
    from posttrain.pipelines.ablation import compile_ablation
    from posttrain.pipelines.compiler import compile_recipe
    from posttrain.pipelines.scheduling import read_scheduling

    if output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"-o {output}: a pipeline is YAML; name it *.yaml")
    fixed = read_scheduling(scheduling)
    if name == "ablation":
        compile_ablation(output, fixed)
        print(f"{output}: candidate recipes in parallel, compared on the same problems")
        return
    loops = {"diagnose": diagnose_recipe, "improve": lambda: improve_recipe(rounds)}
    recipe = _changed(loops[name]() if name in loops else load_recipe(name, load_stages()), settings, changes)
    compile_recipe(recipe, output, fixed)
    print(f"{output}: {recipe.title}, {len(recipe.stages)} stages")


def _changed(recipe: Recipe, settings: Path | None, changes: list[str]) -> Recipe:
    made = changed(recipe, settings, changes)
    check_recipe(made, recipe.name, load_stages())
    return made


def run_recipe(name: str, arguments: list[str], out: str, settings: Path | None, changes: list[str]) -> None:
    """`run_loaded` with a named recipe or a file."""
    run_loaded(load_recipe(name, load_stages()), arguments, out, settings, changes)


def run_loaded(recipe: Recipe, arguments: list[str], out: str, settings: Path | None, changes: list[str]) -> None:
    """Compile a recipe and run it here; show progress, then the table and the report's path.

    Raises:
        PosttrainError: inputs are wrong, or a stage failed.
    """
    recipe = _changed(recipe, settings, changes)
    registry = out.rstrip("/") + "/registry"
    runs = Path("runs" if "://" in out else out).absolute() / "runs"
    defaults = {"registry": registry if "://" in out else str(Path(registry).absolute())}
    inputs = parse_inputs(recipe, arguments, {k: v for k, v in defaults.items() if k in recipe.inputs})
    refuse_missing(recipe, inputs)
    run = _new_run(runs, recipe)
    from posttrain.pipelines.compiler import compile_recipe
    from posttrain.pipelines.scheduling import Scheduling

    # Retries are for preempted pods; here they would only repeat a mistake after a pause.
    compile_recipe(recipe, run / "pipeline.yaml", Scheduling(retries=0))
    (run / "arguments.json").write_text(json.dumps(inputs, indent=1), encoding="utf-8")
    watcher = Watcher(in_order(recipe), run / "events.jsonl")
    started = time.monotonic()
    code = _run_child(run, watcher)
    _finish(run, watcher, code)
    print(f"{len(watcher.seconds)} stages in {time.monotonic() - started:.0f} s")


def _new_run(runs: Path, recipe: Recipe) -> Path:
    run = runs / f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        run.mkdir(parents=True)
    except FileExistsError:
        raise ConfigError(f"{run}: a run started this very second; start again") from None
    return run


def _run_child(run: Path, watcher: Watcher) -> int:
    """The local runner in a process of its own, its log in run.log; its tasks write the events that we draw."""
    environment = {**os.environ, EVENTS_VARIABLE: str(run / "events.jsonl"), "TOKENIZERS_PARALLELISM": "false"}
    # Threads that spin while they wait make a shared machine ten times slower, and an idle one no faster.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A recipe reads models from directories only; without this, Transformers asks the Hub about every one of them.
    environment.setdefault("HF_HUB_OFFLINE", "1")
    command = [sys.executable, "-m", "posttrain.pipelines.local", "pipeline.yaml", "arguments.json", "artifacts"]
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
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            child.wait()
    return child.returncode


def _finish(run: Path, watcher: Watcher, code: int) -> None:
    from posttrain.cli.show import print_run, write_report

    if code:
        where = f"{run / 'run.log'}"
        reason = watcher.failure or _last_error(run / "run.log")
        raise PosttrainError(f"{reason} (log: {where})")
    print_run(run)
    write_report(run, run / "report.html")


def _last_error(log: Path) -> str:
    lines = [
        line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if re.search(r"Error\b", line)
    ]
    return lines[-1].strip() if lines else "the run failed"
