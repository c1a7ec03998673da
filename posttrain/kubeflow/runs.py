"""Runs: started on a deployed pipeline, watched to their end, listed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from posttrain.errors import ConfigError, nearest
from posttrain.kubeflow.connection import Server
from posttrain.kubeflow.deployment import checked, spec_of
from posttrain.kubeflow.waiting import Waiting

ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
_POLL = 5.0  # seconds


def submit(
    server: Server,
    name: str,
    parameters: Mapping[str, Any],
    experiment: str,
    service_account: str = "",
    title: str = "",
) -> str:
    """Start the newest version of a deployed pipeline; returns the run's id.

    Raises:
        ConfigError: there is no such pipeline, or a parameter does not fit it; nothing was started.
    """
    pipeline, version = newest(server, name)
    given = checked(parameters, spec_of(version), name)
    models = server.models
    made = server.create_run(
        display_name=title or f"{name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        experiment_id=server.experiment(experiment),
        pipeline_version_reference=models.V2beta1PipelineVersionReference(
            pipeline_id=pipeline.pipeline_id, pipeline_version_id=version.pipeline_version_id
        ),
        runtime_config=models.V2beta1RuntimeConfig(parameters=given),
        service_account=service_account or None,
    )
    return str(made.run_id)


def newest(server: Server, name: str) -> tuple[Any, Any]:
    """A deployed pipeline and its newest version.

    Raises:
        ConfigError: it is not there, or has none.
    """
    pipeline = server.pipeline(name)
    if pipeline is None:
        known = nearest(name, [each.display_name for each in server.pipelines()])
        raise ConfigError(f"{server.connection.endpoint}: there is no pipeline {name!r}{known}")
    versions = server.versions(pipeline.pipeline_id)
    if not versions:
        raise ConfigError(f"{server.connection.endpoint}: pipeline {name!r} has no version; deploy it again")
    return pipeline, versions[0]


def watch(server: Server, run_id: str, say: Callable[[str], None]) -> str:
    """Wait for a run's end, saying how each task ended and why one waits; returns the run's state."""
    told: set[str] = set()
    waiting = Waiting(run_id, server.connection.namespace, say)
    while True:
        run = server.run(run_id)
        tasks = (run.run_details.task_details or []) if run.run_details else []
        waiting.look("PENDING" in {run.state, *(task.state for task in tasks)})
        for task in tasks:
            if task.state in ENDED and task.task_id not in told and not _is_driver(task.display_name):
                told.add(task.task_id)
                say(f"{task.display_name}: {task.state.lower()}{took(task.start_time, task.end_time)}")
        if run.state in ENDED:
            return str(run.state)
        time.sleep(_POLL)


def _is_driver(name: str | None) -> bool:
    return not name or name == "executor" or name.endswith("driver")


def took(start: datetime | None, end: datetime | None) -> str:
    """` in 12 s`; nothing where it has not ended, which the API says by a date of 1970."""
    if start is None or end is None or end < start:
        return ""
    return f" in {(end - start).total_seconds():.0f} s"
