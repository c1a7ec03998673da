"""`posttrain checkpoints …`: see, check, thin out and turn checkpoints into policies."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from posttrain.storage.history import History
    from posttrain.storage.manifest import Identity, Manifest
    from posttrain.storage.runs import Run

app = typer.Typer(help="See, check, thin out and export the checkpoints of training runs.", no_args_is_help=True)

_FIRST = ("eval_", "reward", "loss")  # of the metrics

Uri = Annotated[str, typer.Argument(metavar="URI", help="A run's checkpoints, or a prefix with several runs below it.")]


@app.command("ls")
def list_(uri: Uri) -> None:
    """List the runs below a URI: what each is, its newest checkpoint, size and age; or the checkpoints of one run."""
    from posttrain.storage.runs import runs_below

    runs = runs_below(uri)
    if [run.name for run in runs] == [""]:
        _show_checkpoints(runs[0])
    else:
        _show_runs(runs)


@app.command()
def verify(uri: Uri) -> None:
    """Fetch every checkpoint and compare it with its SHA-256; says what is damaged, and exits with 2 if anything is."""
    from posttrain.errors import DamagedError
    from posttrain.storage.runs import runs_below

    bad = whole = 0
    for run in runs_below(uri):
        for line in (damage := _damage(_history(run))):
            print(f"{run.name or run.uri}: {line}")
        bad += len(damage)
        whole += len(run.steps) - len(damage)
    if bad:
        raise DamagedError(f"{uri}: {bad} damaged, {whole} whole; a run that goes on passes over what is damaged")
    print(f"{whole} checkpoints, all whole")


@app.command()
def prune(
    uri: Uri,
    keep_last: Annotated[int, typer.Option(help="Keep so many of the newest.")] = 3,
    keep_best: Annotated[int, typer.Option(help="Keep so many of the best by the metric.")] = 0,
    metric: Annotated[str, typer.Option(help="Which metric says what is best, as eval_loss.")] = "",
    lower: Annotated[bool, typer.Option("--lower", help="Of the metric, less is better.")] = False,
    keep_every: Annotated[int, typer.Option(help="Keep those whose step is a multiple of it.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and leave it.")] = False,
) -> None:
    """Remove what is not to be kept of every run below a URI, and what the dead left; safe while a run goes on."""
    from posttrain.storage.retention import Retention
    from posttrain.storage.runs import runs_below

    keep = Retention(keep_last, keep_best, metric, lower, keep_every)
    for run in runs_below(uri):
        history = _history(run)
        history.keep = keep
        pruned, swept = history.prune(dry_run), history.sweep(dry_run)
        left = [step for step in run.steps if step not in pruned.steps]
        said = "would be removed" if dry_run else "removed"
        print(
            f"{run.name or run.uri}: {len(pruned.steps)} of {len(run.steps)} checkpoints {said} "
            f"({_bytes(pruned.size)}), and {swept} objects that were left behind; kept: {_steps(left)}"
        )
        for reason in history.unreadable.values():
            print(f"{reason}; it was left, and so were all files of checkpoints")


@app.command()
def export(
    uri: Uri,
    out: Annotated[Path, typer.Option(help="A new directory.")],
    step: Annotated[int | None, typer.Option(help="Which checkpoint; by default the newest that is whole.")] = None,
) -> None:
    """Write the policy in a checkpoint as a plain Hugging Face directory."""
    from posttrain.errors import ConfigError
    from posttrain.storage.runs import runs_below

    runs = runs_below(uri)
    if len(runs) > 1:
        raise ConfigError(f"{uri}: several runs are below it; give one of {', '.join(run.uri for run in runs)}")
    manifest = _chosen(runs[0], step)
    _history(runs[0]).export(manifest, out)
    print(f"{out}: step {manifest.step} of {manifest.identity.stage}; bring it into recipes by the stage base")


def _history(run: Run) -> History:
    from posttrain.storage.history import History
    from posttrain.storage.store import open_store

    return History(open_store(run.uri))


def _chosen(run: Run, step: int | None) -> Manifest:
    from posttrain.errors import DataError

    history = _history(run)
    for number in sorted(run.steps, reverse=True) if step is None else [step]:
        manifest = history.manifest(number)
        if manifest and (step is not None or not history.lacking(manifest)):
            return manifest
    wanted = "no whole checkpoint" if step is None else f"no checkpoint of step {step}"
    raise DataError(f"{run.uri}: {wanted}; there are {_steps(run.steps)}")


def _damage(history: History) -> list[str]:
    """A line for each checkpoint that is not whole; what several share is fetched once."""
    from posttrain.storage.history import named

    manifests = history.manifests()
    wrong = history.damaged_blobs(ref for manifest in manifests for ref in manifest.files.values())
    lines = list(history.unreadable.values())
    for manifest in manifests:
        if bad := named(manifest.files, wrong):
            lines.append(f"checkpoint {manifest.step} is damaged: {'; '.join(bad)}")
    return lines


def _show_runs(runs: list[Run]) -> None:
    from posttrain.cli.show import print_table, table

    rows = table("run", "stage", "from", "checkpoints", "newest step", "size", "age", "metrics", "unlike the newest in")
    newest = {run.name: _history(run).manifest(max(run.steps)) if run.steps else None for run in runs}
    latest: dict[str, Manifest] = {}  # of each stage
    for run in sorted(runs, key=lambda run: max(run.steps.values(), default=0.0)):
        if manifest := newest[run.name]:
            latest[manifest.identity.stage] = manifest
    for run in runs:
        manifest = newest[run.name]
        age = _age(max(run.steps.values())) if run.steps else ""
        seen = [str(len(run.steps)), str(max(run.steps)) if run.steps else "", _bytes(run.size), age]
        if manifest is None:
            rows.add_row(run.name, "", "", *seen, "", "")
            continue
        identity = manifest.identity
        unlike = [line.partition(": ")[0] for line in identity.differences(latest[identity.stage].identity)]
        rows.add_row(run.name, identity.stage, _parents(identity), *seen, _metrics(manifest.metrics), ", ".join(unlike))
    print_table(rows)


def _show_checkpoints(run: Run) -> None:
    from posttrain.cli.show import print_table, table

    history = _history(run)
    manifests = history.manifests()
    rows = table("step", "size", "shared", "age", "processes", "metrics")
    before: set[str] = set()
    for manifest in manifests:
        shared = sum(ref.size for ref in manifest.files.values() if ref.blob in before)
        before = {ref.blob for ref in manifest.files.values()}
        world = f"{manifest.world.size} {manifest.world.strategy}".strip()
        age = _age(run.steps.get(manifest.step, time.time()))
        rows.add_row(str(manifest.step), _bytes(manifest.size), _bytes(shared), age, world, _metrics(manifest.metrics))
    print_table(rows)
    for reason in history.unreadable.values():
        print(reason)
    if manifests:
        identity = manifests[-1].identity
        said = _parents(identity) or "nothing"
        print(f"{identity.stage} from {said}: {len(manifests)} checkpoints, {_bytes(run.size)} in all")


def _parents(identity: Identity) -> str:
    return ", ".join(f"{role}={digest[:12]}" for role, digest in identity.parents.items())


def _metrics(metrics: Mapping[str, float]) -> str:
    """The three that are likeliest to be asked for."""
    rank = {
        name: next((at for at, start in enumerate(_FIRST) if name.startswith(start)), len(_FIRST)) for name in metrics
    }
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in sorted(metrics, key=rank.__getitem__)[:3])


def _steps(steps: Iterable[int]) -> str:
    numbers = sorted(steps)
    shown = [str(step) for step in numbers]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:3], "…", *shown[-3:]]) or "none"


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _age(since: float) -> str:
    seconds = max(0.0, time.time() - since)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
