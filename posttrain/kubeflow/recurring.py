"""Recurring runs, upserted: Kubeflow's API has no update, and allows two of one name.

The new one is made before the old one goes, so that none is ever lost; what a lost answer left behind twice is found
the next time, and removed. Of one name the newest is in force. The description says whose it is, and by a digest what
it does. Whether it is switched on is left as it is while it does the same: people pause a recurring run in the UI.

Kubernetes removes a run's pods with the recurring run that started it. So one whose run is at work is switched off, and
goes with a later deployment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.kubeflow.connection import Server
from posttrain.kubeflow.deployment import Schedule


@dataclass(frozen=True)
class Change:
    """What was done, or would be, to one thing: `create`, `update`, `delete`, `disable` or `same`."""

    kind: str
    name: str
    action: str
    details: tuple[str, ...] = ()


def mark(release: str) -> str:
    """What the descriptions of all that a release owns hold."""
    return f"[posttrain:{release}]"


def marked(listed: Sequence[Any], mark: str) -> list[Any]:
    """Those of a list that have a mark."""
    return [each for each in listed if mark in (each.description or "")]


def upsert(server: Server, name: str, schedule: Schedule, pipeline: str, mark: str, dry: bool = False) -> Change:
    """See to it that there is one recurring run of that name, and that it does what the schedule says.

    Args:
        schedule: with its parameters checked, and an experiment.
        pipeline: its id; empty if it is not there yet.
        dry: only say what would be done.
    """
    says = schedule.model_dump(mode="json")
    text = json.dumps(says | {"pipeline": pipeline}, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    named = [each for each in marked(server.recurring_runs(), mark) if each.display_name == name]
    there = sorted(named, key=lambda each: (each.created_at, each.recurring_run_id))
    same = bool(there) and (there[-1].description or "").endswith(digest)
    if not dry and not same:
        _create(server, name, schedule, pipeline, f"{mark} {digest}")
    retired = [_retire(server, each, dry) for each in (there[:-1] if same else there)]
    action = "same" if same and all(each.action != "delete" for each in retired) else "update" if there else "create"
    return Change("recurring run", name, action, tuple(f"{key}: {value}" for key, value in says.items() if value))


def remove(server: Server, mark: str, names: Callable[[str], bool], dry: bool = False) -> list[Change]:
    """Remove those of a mark whose names are to go."""
    gone = [each for each in marked(server.recurring_runs(), mark) if names(each.display_name)]
    return [_retire(server, each, dry) for each in gone]


def _retire(server: Server, found: Any, dry: bool) -> Change:
    """Delete it, or switch it off while a run of it is at work."""
    kind, name = "recurring run", found.display_name
    if not server.is_at_work(found.recurring_run_id):
        if not dry:
            server.delete_recurring_run(found.recurring_run_id)
        return Change(kind, name, "delete")
    if not dry and found.mode != "DISABLE":
        server.disable_recurring_run(found.recurring_run_id)
    return Change(kind, name, "disable", ("a run of it is at work: it goes with a later deployment",))


def _create(server: Server, name: str, schedule: Schedule, pipeline: str, description: str) -> None:
    models = server.models
    by = (
        {"cron_schedule": models.V2beta1CronSchedule(cron=schedule.cron)}
        if schedule.cron
        else {"periodic_schedule": models.V2beta1PeriodicSchedule(interval_second=schedule.every_seconds)}
    )
    server.create_recurring_run(
        display_name=name,
        description=description,
        experiment_id=server.experiment(schedule.experiment),
        # Without a version: each run takes the newest.
        pipeline_version_reference=models.V2beta1PipelineVersionReference(pipeline_id=pipeline),
        runtime_config=models.V2beta1RuntimeConfig(parameters=schedule.parameters),
        trigger=models.V2beta1Trigger(**by),
        mode="ENABLE" if schedule.enabled else "DISABLE",
        max_concurrency=str(schedule.max_concurrency),
        no_catchup=not schedule.catchup,
        service_account=schedule.service_account or None,
    )
