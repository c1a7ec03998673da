"""Finds what a retraining is to learn from and where it starts: the newest data that no run has decided on, and the
champion.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from posttrain.data.versions import MARKER, DataVersion, Versions, data_versions
from posttrain.errors import ConfigError
from posttrain.progress import Progress
from posttrain.registry import open_registry
from posttrain.registry.retraining import Plan, Retraining
from posttrain.settings import Settings
from posttrain.stage import Parents, Stage, Work
from posttrain.taxonomy import Kind

NEW, NOTHING_NEW = "new", "nothing new"
# What a version may bring; what it has not is what the settings of these names say.
INPUTS = ("problems", "held_out", "demos", "preferences")


class DataVersionSettings(Settings):
    """Where data comes in, and which model learns from it."""

    data: str = Field(description="folder of data versions: a path, file:// or s3://bucket/prefix")
    registry: str = Field(description="the registry: a path, file:// or s3://bucket/prefix")
    model: str = Field(description="the model's name in it")
    base: str = Field(default="", description="the policy to start from while none is registered")
    problems: str = Field(default="", description="training problems, for versions without their own")
    held_out: str = Field(default="", description="held-out problems, for versions without their own")
    demos: str = Field(default="", description="demonstrations, for versions without their own")
    preferences: str = Field(default="", description="preferences, for versions without their own")
    marker: str = Field(
        default=MARKER, description="the file without which a version is not whole yet; empty = each is"
    )
    again: bool = Field(default=False, description="take the newest version even if a run has decided on it")
    run: str = Field(default="", description="the run's id, under which its plan is set down; empty = nowhere")


@dataclass(frozen=True)
class Found:
    """What to do: `verdict` is "new" or "nothing new", `inputs` the recipe's by name."""

    verdict: str
    reason: str
    version: str
    champion: int
    inputs: dict[str, str]


def find(settings: DataVersionSettings, versions: Versions) -> Found:
    """Look at the data and at the registry.

    Raises:
        ConfigError: no policy is registered, and no base is given.
    """
    registry = open_registry(settings.registry)
    champion = registry.champion(settings.model)
    number = champion.version if champion else 0
    base = registry.policy_uri(settings.model, number) if number else settings.base
    if not versions.ready:
        waiting = f"; not whole yet, without {settings.marker}: {', '.join(versions.unready)}"
        return Found(NOTHING_NEW, f"{settings.data} has no version{waiting * bool(versions.unready)}", "", number, {})
    newest = versions.ready[-1]
    known = Retraining(settings.registry, settings.model).outcome(newest.id)
    if known and not settings.again:
        told = f"{newest.name} was decided on by run {known.run}: {known.event}, {known.reason}"
        return Found(NOTHING_NEW, told, newest.id, number, {})
    if not base:
        raise ConfigError(f"data_version: {settings.registry} has no champion of {settings.model!r} yet; give a base")
    started = f"from the champion, v{number}" if number else "from the base, as none is registered yet"
    return Found(NEW, f"{newest.name}, {started}", newest.id, number, {"base": base, **_inputs(settings, newest)})


def _inputs(settings: DataVersionSettings, version: DataVersion) -> dict[str, str]:
    return {name: version.inputs.get(name, str(getattr(settings, name))) for name in INPUTS}


def run(settings: DataVersionSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Look, set the plan down, say what was found."""
    versions = data_versions(settings.data, settings.marker)
    found = find(settings, versions)
    if settings.run:
        data = found.version if found.verdict == NEW else ""
        plan = Plan(run=settings.run, data=data, champion=found.champion, reason=found.reason)
        Retraining(settings.registry, settings.model).begin(plan)
    (out / "inputs.json").write_text(json.dumps(found.inputs, indent=1) + "\n", encoding="utf-8")
    progress.update(1, 1, f"{found.verdict}: {found.reason}")
    from posttrain.report.retraining import found_blocks

    return Work(
        facts={"verdict": found.verdict, "reason": found.reason, "version": found.version, **found.inputs},
        counts={"versions": len(versions.ready), "versions_not_whole": len(versions.unready)},
        blocks=found_blocks(found.verdict == NEW, found.reason, found.inputs, versions),
    )


STAGE = Stage(
    name="data_version",
    output="selection",
    makes=Kind.REPORT,
    parents={},
    settings=DataVersionSettings,
    run=run,
    image="control",
    outside=True,
)
