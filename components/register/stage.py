"""Registers a policy that a gate let through: nothing else gets in. A retraining has it note refusals, too."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from posttrain.artifacts.artifact import Artifact
from posttrain.errors import ContractError
from posttrain.progress import Progress
from posttrain.registry import Promote, open_registry
from posttrain.registry.retraining import Event, Outcome, Retraining
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind

Facts = dict[str, str | int | float]


class RegisterSettings(Settings):
    """Where to, and under which name."""

    registry: str = Field(description="the registry: a path, file:// or s3://bucket/prefix")
    model: str = Field(description="the model's name in it")
    model_registry: str = Field(
        default="",
        description="URL of a Kubeflow Model Registry that is to list it, too, as "
        "http://model-registry-service.kubeflow:8080",
    )
    promote: Promote = Field(
        default="proven",
        description="when it becomes the champion: proven (no champion yet, or the gate compared it with the one "
        "there is), always, or never",
    )
    refused: Literal["fail", "note"] = Field(
        default="fail", description="a decision that is no pass: an error, or noted for its data version"
    )
    data_version: str = Field(default="", description="the data that it learned from, noted as decided; empty = none")
    run: str = Field(default="", description="the run's id, noted with it")

    @field_validator("model")
    @classmethod
    def _plain_name(cls, model: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", model):
            raise ValueError("use letters, digits, '.', '_' and '-', starting with a letter or digit")
        return model


PARENTS = {
    "policy": ParentSpec(Kind.POLICY, help="the candidate", unread=True),
    "decision": ParentSpec(Kind.DECISION, help="a gate's decision about this very policy"),
}


def check(settings: RegisterSettings, parents: Parents) -> None:
    """The decision must be about this policy, and positive."""
    policy, decision = parents.one("policy"), parents.one("decision")
    facts = decision.record.facts
    if facts.get("candidate") != policy.digest:
        raise ContractError(
            f"register: the decision is about {str(facts.get('candidate'))[:12]}, the policy is {policy.digest[:12]}; "
            "evaluate and gate this policy"
        )
    if facts.get("verdict") != "pass" and settings.refused == "fail":
        raise ContractError(f"register: the gate said {facts.get('verdict')!r}: {facts.get('reason')}")


def run(settings: RegisterSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Publish the policy and update the index, if the gate let it through; note what came of the data."""
    policy, decision = parents.one("policy"), parents.one("decision")
    event, facts, blocks = _registered(settings, policy, decision)
    entry = {"model": settings.model, "policy": policy.digest, "event": event, **facts}
    (out / "registration.json").write_text(json.dumps(entry, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    version = int(facts.get("version", 0))
    if settings.data_version:
        outcome = Outcome(
            data=settings.data_version,
            run=settings.run,
            event=event,
            reason=str(decision.record.facts["reason"]),
            candidate=policy.digest,
            version=version,
            when=datetime.now(UTC),
            metrics=decision.record.metrics,
        )
        Retraining(settings.registry, settings.model).conclude(outcome)
    why_not = facts.get("not_champion", "")
    progress.update(1, 1, f"{event}{f', v{version}' if version else ''}{f': {why_not}' if why_not else ''}")
    return Work(
        facts=facts, metrics={"version": float(version), "champion": float(event == "registered")}, blocks=blocks
    )


def _registered(settings: RegisterSettings, policy: Artifact, decision: Artifact) -> tuple[Event, Facts, list[Any]]:
    """What came of it, where it is registered, if it is, and what the page says of it."""
    from posttrain.report.register import refused_blocks, register_blocks

    verdict: Literal["pass", "fail", "undecided"] = decision.record.facts["verdict"]  # type: ignore[assignment]
    if verdict != "pass":
        return verdict, {}, refused_blocks(decision.record)
    registry = open_registry(settings.registry, settings.model_registry)
    change = registry.register(settings.model, policy, decision, datetime.now(UTC), settings.promote)
    version = change.version.version
    facts: Facts = {"uri": registry.policy_uri(settings.model, version), "version": version}
    facts["champion"] = change.after.version if change.after else 0
    facts |= {"not_champion": change.why_not} if change.why_not else {}
    blocks = register_blocks(change, registry.index(settings.model), str(facts["uri"]), settings.model_registry)
    return "registered" if change.promoted else "not champion", facts, blocks


STAGE = Stage(
    name="register",
    output="registration",
    makes=Kind.REGISTRATION,
    parents=PARENTS,
    settings=RegisterSettings,
    run=run,
    check=check,
    image="control",
    outside=True,
    measures=False,
)
