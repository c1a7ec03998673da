"""`posttrain deploy`, `submit`, `schedule` and `runs`: what talks to a Kubeflow Pipelines server."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from posttrain.kubeflow.recurring import Change

Endpoint = Annotated[str, typer.Option(metavar="URL", help="Kubeflow Pipelines' API (KF_PIPELINES_ENDPOINT).")]
Namespace = Annotated[str, typer.Option(help="The profile's, on a multi-user Kubeflow (POSTTRAIN_KFP_NAMESPACE).")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")]
Parameters = Annotated[
    list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="A run-time parameter; may be repeated.")
]
Experiment = Annotated[str, typer.Option(help="Where the runs are listed.")]
Account = Annotated[str, typer.Option(help="The service account of its pods.")]
_SIGNS = {"create": "+", "update": "~", "delete": "-", "disable": "-", "same": "="}


def deploy(
    file: Annotated[Path, typer.Argument(help="The deployment (YAML): pipelines, defaults, schedules.")],
    endpoint: Endpoint = "",
    namespace: Namespace = "",
    dry_run: DryRun = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove all of the release; runs and data stay.")] = False,
) -> None:
    """Bring a server to what a file says: pipelines by content, recurring runs upserted, what is gone removed."""
    from posttrain.kubeflow.connection import server
    from posttrain.kubeflow.deploy import Deployer
    from posttrain.kubeflow.deployment import read_deployment
    from posttrain.pipelines.packages import packages

    wanted = read_deployment(file)
    # Everything is compiled and checked before the server is asked for the first thing.
    compiled = [] if remove else packages(wanted, str(file))
    if remove:
        wanted = wanted.model_copy(update={"schedules": {}, "pipelines": {}})
    deployer = Deployer(server(endpoint, namespace), wanted, compiled, dry_run)
    _show(deployer.remove() if remove else deployer.apply(), dry_run)


def submit(
    pipeline: Annotated[str, typer.Argument(help="A deployed pipeline's name.")],
    param: Parameters = None,
    experiment: Experiment = "posttrain",
    service_account: Account = "",
    title: Annotated[str, typer.Option(help="The run's name; default: the pipeline's and the time.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end, and end as it does.")] = False,
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """Start the newest version of a deployed pipeline."""
    from posttrain.errors import PosttrainError
    from posttrain.kubeflow import runs
    from posttrain.kubeflow.connection import server

    there = server(endpoint, namespace)
    run = runs.submit(there, pipeline, _pairs(param or []), experiment, service_account, title)
    print(f"{pipeline}: run {run} ({there.connection.endpoint}/#/runs/details/{run})")
    if wait and (state := runs.watch(there, run, print)) != "SUCCEEDED":
        raise PosttrainError(f"run {run}: {state.lower()}; its page says which task and why")


def schedule(
    name: Annotated[str, typer.Argument(help="The recurring run's name.")],
    pipeline: Annotated[str, typer.Option(help="A deployed pipeline's name.")] = "",
    cron: Annotated[str, typer.Option(help="Six fields, seconds first, UTC: '0 0 2 * * *'.")] = "",
    every: Annotated[int, typer.Option(metavar="SECONDS", help="Instead of --cron.")] = 0,
    param: Parameters = None,
    experiment: Experiment = "posttrain",
    service_account: Account = "",
    remove: Annotated[bool, typer.Option("--remove", help="Remove it.")] = False,
    dry_run: DryRun = False,
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """Run a deployed pipeline again and again; one of that name is replaced."""
    from functools import partial

    from posttrain.kubeflow import recurring, runs
    from posttrain.kubeflow.connection import server
    from posttrain.kubeflow.deployment import Schedule, checked, spec_of
    from posttrain.settings import validated

    there = server(endpoint, namespace)
    mark = recurring.mark("by-hand")
    if remove:
        _show(there.settled(partial(recurring.remove, there, mark, lambda each: each == name, dry_run)), dry_run)
        return
    given: dict[str, Any] = {"pipeline": pipeline, "cron": cron, "every_seconds": every, "experiment": experiment}
    wanted = validated(Schedule, given | {"service_account": service_account}, name)
    found, version = runs.newest(there, pipeline)
    wanted = wanted.model_copy(update={"parameters": checked(_pairs(param or []), spec_of(version), name)})
    do = partial(recurring.upsert, there, name, wanted, found.pipeline_id, mark, dry_run)
    _show([there.settled(do)], dry_run)


def runs(
    most: Annotated[int, typer.Option("-n", min=1, help="How many, the newest first.")] = 20,
    endpoint: Endpoint = "",
    namespace: Namespace = "",
) -> None:
    """The newest runs: state, time, name."""
    from rich.console import Console
    from rich.table import Table

    from posttrain.kubeflow.connection import server
    from posttrain.kubeflow.runs import took

    table = Table("run", "state", "started", "took", "id", box=None)
    for run in server(endpoint, namespace).runs(most):
        time = took(run.created_at, run.finished_at).removeprefix(" in ")
        table.add_row(run.display_name, run.state, f"{run.created_at:%Y-%m-%d %H:%M}", time, run.run_id)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _pairs(given: list[str]) -> dict[str, Any]:
    from posttrain.errors import ConfigError

    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--param {text!r}: write NAME=VALUE")
        pairs[name] = value
    return pairs


def _show(changes: Iterable[Change], dry: bool) -> None:
    counts: dict[str, int] = {}
    for change in changes:
        counts[change.action] = counts.get(change.action, 0) + 1
        print(f"{_SIGNS[change.action]} {change.kind} {change.name}: {change.action}")
        for line in change.details if change.action != "same" else ():
            print(f"    {line}")
    told = ", ".join(f"{number} {action}" for action, number in counts.items()) or "nothing there"
    print(f"{'would be: ' if dry else ''}{told}")
