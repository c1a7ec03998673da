"""Brings back an artifact that an earlier run made: its files, its record and with it its whole lineage."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import Field

from posttrain.progress import Progress
from posttrain.settings import Settings, require_uri
from posttrain.stage import Parents, Stage, Work
from posttrain.storage import fetch
from posttrain.storage.references import obtain
from posttrain.taxonomy import Kind


class RecallSettings(Settings):
    """Where the artifact lies."""

    uri: str = Field(description="a finished artifact's folder: a path, file:// or s3://bucket/prefix")
    kind: Literal["policy", "problems", "trajectories", "evaluation", "reward_model", "process_reward_model"] = Field(
        description="what it has to be"
    )
    optional: bool = Field(default=False, description="an empty uri is no mistake: nothing is brought in")


def run(settings: RecallSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Fetch, verify every file against the record, hand on as it is."""
    if not settings.uri:
        return Work(absent=f"{settings.name or f'this {settings.kind}'} was not given")
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        artifact = obtain(fetch(settings.uri, Path(scratch)), Kind(settings.kind))
        shutil.copytree(artifact.path, out, dirs_exist_ok=True)
    progress.update(1, 1, "files verified")
    return Work(made=artifact.record)


STAGE = Stage(
    name="recall",
    output="artifact",
    makes=lambda settings: Kind(settings.kind),
    parents={},
    settings=RecallSettings,
    run=run,
    check_settings=lambda settings: require_uri(settings.uri, settings.optional),
    image="control",
    outside=True,
    measures=False,
)
