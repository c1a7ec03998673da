"""Says what came of a retraining, however it ended: on its page, and to a webhook.

It runs after all else, also where the run failed, so it is told nothing: what the run set out to do and what was
decided lie in the registry, and what a pod that failed said is asked of Kubernetes.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from pydantic import Field

from posttrain.kubeflow.pods import last_words
from posttrain.kubeflow.webhook import notify
from posttrain.progress import Progress
from posttrain.registry import open_registry
from posttrain.registry.retraining import Event, Outcome, Plan, Retraining
from posttrain.settings import Settings
from posttrain.stage import Parents, Stage, Work
from posttrain.taxonomy import Kind

EVENTS: tuple[Event, ...] = get_args(Event)


class ConcludeSettings(Settings):
    """Which run, and who is told."""

    registry: str = Field(description="the registry: a path, file:// or s3://bucket/prefix")
    model: str = Field(description="the model's name in it")
    run: str = Field(description="the run's id")
    link: str = Field(default="", description="address of the Kubeflow UI, for the message")
    notify_on: list[Event] = Field(
        default=[event for event in EVENTS if event != "nothing new"], description="what the webhook is told of"
    )


def outcome_of(settings: ConcludeSettings) -> Outcome:
    """What came of the run."""
    memory = Retraining(settings.registry, settings.model)
    plan = memory.plan(settings.run)
    decided = memory.outcome(plan.data) if plan and plan.data else None
    if decided and decided.run == settings.run:
        return decided
    event: Event = "nothing new" if plan and not plan.data else "ended early"
    reason = plan.reason if event == "nothing new" and plan else last_words(settings.run) or _unknown(plan)
    data = plan.data if plan else ""
    return Outcome(data=data, run=settings.run, event=event, reason=reason, candidate="", when=datetime.now(UTC))


def _unknown(plan: Plan | None) -> str:
    return f"before anything was decided; {plan.reason if plan else 'before it had looked at the data'}; see its log"


def message(outcome: Outcome, settings: ConcludeSettings) -> dict[str, str | int | float]:
    """What the webhook is told; chat services show `text`."""
    champion = open_registry(settings.registry).champion(settings.model)
    now = f"champion: v{champion.version}" if champion else "no champion"
    said = {
        "registered": f"v{outcome.version} is the new champion",
        "not champion": f"v{outcome.version} is registered, and not the champion",
        "fail": "the challenger is not better",
        "undecided": "undecided, nothing registered",
        "nothing new": "nothing new",
        "ended early": "the run ended without a decision",
    }[outcome.event]
    where = f" {settings.link.rstrip('/')}/#/runs/details/{settings.run}" if settings.link else ""
    return {
        "text": f"{settings.model}: {said} ({now}). {outcome.reason}{where}",
        "event": outcome.event,
        "model": settings.model,
        "registry": settings.registry,
        "run": settings.run,
        "data": outcome.data,
        "version": outcome.version,
        "champion": champion.version if champion else 0,
        "reason": outcome.reason,
    }


def run(settings: ConcludeSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Find out, tell, and only then forget the plan."""
    outcome = outcome_of(settings)
    told = message(outcome, settings)
    (out / "conclusion.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    sent = notify(told) if outcome.event in settings.notify_on else f"not told of {outcome.event!r}"
    Retraining(settings.registry, settings.model).forget(settings.run)
    progress.update(1, 1, f"{told['text']} (webhook: {sent})")
    from posttrain.report.retraining import concluded_blocks

    return Work(
        facts={key: value for key, value in told.items() if key != "text"} | {"webhook": sent},
        metrics={"registered": float(outcome.event == "registered"), **outcome.metrics},
        blocks=concluded_blocks(outcome, str(told["text"]), sent),
    )


STAGE = Stage(
    name="conclude",
    output="conclusion",
    makes=Kind.REPORT,
    parents={},
    settings=ConcludeSettings,
    run=run,
    image="control",
    outside=True,
)
