"""Registers a policy that a gate let through: nothing else gets in."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, field_validator

from posttrain.errors import ContractError
from posttrain.progress import Progress
from posttrain.registry import Promote, open_registry
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind


class RegisterSettings(Settings):
    """Where to, and under which name."""

    registry: str = Field(description="the registry: a path, file:// or s3://bucket/prefix")
    model: str = Field(description="the model's name in it")
    promote: Promote = Field(
        default="proven",
        description="when it becomes the champion: proven (no champion yet, or the gate compared it with the one "
        "there is), always, or never",
    )

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
    if facts.get("verdict") != "pass":
        raise ContractError(f"register: the gate said {facts.get('verdict')!r}: {facts.get('reason')}")


def run(settings: RegisterSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Publish the policy and update the index."""
    policy, decision = parents.one("policy"), parents.one("decision")
    registry = open_registry(settings.registry)
    change = registry.register(settings.model, policy, decision, datetime.now(UTC), settings.promote)
    version, uri = change.version.version, registry.policy_uri(settings.model, change.version.version)
    facts: dict[str, str | int | float] = {
        "uri": uri,
        "version": version,
        "champion": change.after.version if change.after else 0,
    }
    facts |= {"not_champion": change.why_not} if change.why_not else {}
    entry = {"model": settings.model, "policy": policy.digest, **facts}
    (out / "registration.json").write_text(json.dumps(entry, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    progress.update(1, 1, f"registered v{version}{f', not champion: {change.why_not}' if change.why_not else ''}")
    return Work(facts=facts, metrics={"version": float(version), "champion": float(change.promoted)})


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
)
