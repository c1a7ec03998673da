"""A registry in a directory or bucket: ordinary Hugging Face directories and one index.

    <uri>/<model>/v3/          the policy with its record, ready to be served from here
    <uri>/<model>/index.json   versions in order, and the champion

The index is replaced in one step after the policy is whole, so a reader never sees a version that is not there.
"""

from __future__ import annotations

import json
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.digests import RECORD_FILE
from posttrain.storage import read_text, write_text
from posttrain.storage.references import publish_artifact


class Version(BaseModel):
    """One registered policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    digest: str
    decision: str = Field(description="digest of the gate's decision that let it in")
    registered: datetime
    metrics: dict[str, float] = Field(default_factory=dict)


class Index(BaseModel):
    """A model's versions and which of them is the champion."""

    model_config = ConfigDict(extra="forbid")

    model: str
    champion: int | None = None
    versions: list[Version] = Field(default_factory=list)


class DirectoryRegistry:
    """The registry at a URI (a path, `file://` or `s3://`)."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")

    def index(self, model: str) -> Index:
        """What is registered under that name."""
        text = read_text(f"{self.uri}/{model}/index.json")
        return Index.model_validate_json(text) if text else Index(model=model)

    def policy_uri(self, model: str, version: int) -> str:
        """Where a version lies."""
        return f"{self.uri}/{model}/v{version}"

    def register(self, model: str, policy: Artifact, decision: Artifact, when: datetime) -> Version:
        """Add a policy as the next version and make it the champion.

        A policy that is registered already keeps its version and becomes the champion again.

        Raises:
            DataError: the policy's files are not as recorded.
            StorageError: the store failed. The index is then unchanged, as it is after the other.
        """
        index = self.index(model)
        known = next((version for version in index.versions if version.digest == policy.digest), None)
        if known is None:
            number = self._publish(model, policy, 1 + max((version.version for version in index.versions), default=0))
            known = Version(
                version=number,
                digest=policy.digest,
                decision=decision.digest,
                registered=when,
                metrics=decision.record.metrics,
            )
            index.versions.append(known)
        index.champion = known.version
        write_text(f"{self.uri}/{model}/index.json", index.model_dump_json(indent=1) + "\n")
        return known

    def _publish(self, model: str, policy: Artifact, number: int) -> int:
        """Put the policy at the first free version from `number` on and return it.

        A run that died before it wrote the index left a whole policy behind: its retry takes it over.
        """
        while (left := read_text(f"{self.policy_uri(model, number)}/{RECORD_FILE}")) is not None:
            if json.loads(left)["digest"] == policy.digest:
                return number
            number += 1
        publish_artifact(policy, self.policy_uri(model, number))
        return number
