"""Registers a policy that a gate let through: nothing else gets in."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, field_validator

from posttrain.errors import ContractError
from posttrain.progress import Progress
from posttrain.registry.directory import DirectoryRegistry
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind


class RegisterSettings(Settings):
    """Where to, and under which name."""

    registry: str = Field(description="the registry: a path, file:// or s3://bucket/prefix")
    model: str = Field(description="the model's name in it")

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
    registry = DirectoryRegistry(settings.registry)
    version = registry.register(settings.model, policy, decision, datetime.now(UTC))
    uri = registry.policy_uri(settings.model, version.version)
    entry = {"model": settings.model, "version": version.version, "uri": uri, "policy": policy.digest}
    (out / "registration.json").write_text(json.dumps(entry, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    progress.update(1, 1, "registered")
    return Work(facts={"uri": uri, "version": version.version}, metrics={"version": float(version.version)})


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
