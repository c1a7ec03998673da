"""Brings a policy in from outside: fetches it, refuses what must not be loaded, fingerprints and records it.

One that this library made keeps its record, and with it its lineage: what it was trained on is not forgotten when it
is trained again.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pydantic import Field

from posttrain.artifacts.contracts import enough_room
from posttrain.artifacts.digests import content_files
from posttrain.artifacts.policy import PICKLES, inspect_policy
from posttrain.artifacts.record import has_record
from posttrain.progress import Progress
from posttrain.settings import Settings, require_uri
from posttrain.stage import Parents, Stage, Work
from posttrain.storage import fetch
from posttrain.storage.references import obtain
from posttrain.taxonomy import Kind


class BaseSettings(Settings):
    """Where the policy lies."""

    uri: str = Field(description="a Hugging Face model directory: a path, file:// or s3://bucket/prefix")
    optional: bool = Field(default=False, description="an empty uri is no mistake: nothing is brought in")


def run(settings: BaseSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Copy the policy's files into the artifact, but for pickles that lie beside its safetensors."""
    if not settings.uri:
        return Work(absent=f"{settings.name or 'this policy'} was not given")
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        source = fetch(settings.uri, Path(scratch))
        made = obtain(source, Kind.POLICY) if has_record(source) else None
        source = made.path if made else source
        inspect_policy(source)
        found = content_files(source)
        files = found if made else [file for file in found if file.suffix not in PICKLES]
        enough_room(out, sum(file.stat().st_size for file in files))
        for number, file in enumerate(files, start=1):
            target = out / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            progress.update(number, len(files), "file")
    if made:
        return Work(made=made.record)
    counts = {"files": len(files), "pickles_left_out": len(found) - len(files)}
    return Work(facts={"uri": settings.uri, **inspect_policy(out)}, counts=counts)


STAGE = Stage(
    name="base",
    output="policy",
    makes=Kind.POLICY,
    parents={},
    settings=BaseSettings,
    run=run,
    check_settings=lambda settings: require_uri(settings.uri, settings.optional),
    method="supplied",
    image="control",
    outside=True,
    measures=False,
)
