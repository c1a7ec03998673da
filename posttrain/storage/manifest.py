"""What a checkpoint says of itself: its files, the run that it belongs to, and how two runs differ."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from posttrain.artifacts.differences import differences, shown
from posttrain.artifacts.digests import digest_value
from posttrain.errors import DataError
from posttrain.storage.layout import BLOBS

FORMAT = 1


class FileRef(BaseModel):
    """A file of a checkpoint: SHA-256 and size of its bytes, and which copy of them is meant.

    Every time that bytes are sent they become a new copy under a name that was never used before: so a name that was
    once free to be removed stays so, and who removes it need not know who sends the same bytes again meanwhile.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    tag: str = Field(pattern=r"^[0-9a-f]{12}$")

    @property
    def blob(self) -> str:
        """The name of the object that holds the bytes."""
        return f"{BLOBS}{self.sha256}-{self.tag}"


class World(BaseModel):
    """The processes that made a checkpoint together, and how a batch was dealt out to them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(default=1, ge=1)
    strategy: str = Field(default="", description="how the model is spread over them: ddp, fsdp, zero …")
    batch_size: int = Field(default=1, ge=1, description="sequences of a process's forward pass")
    accumulation: int = Field(default=1, ge=1, description="forward passes of an optimizer step")
    rollouts: bool = Field(default=False, description="each has sampled some that are still to be trained on")

    def unlike(self, other: World) -> str:
        """How other processes differ from these: `4 processes instead of 2`; nothing if all are dealt alike."""
        if self.size != other.size:
            return f"{self.size} process{'es' * (self.size > 1)} instead of {other.size}"
        mine, theirs = (self.batch_size, self.accumulation), (other.batch_size, other.accumulation)
        return "" if mine == theirs else "batch_size × accumulation = {} × {} instead of {} × {}".format(*mine, *theirs)


ALONE = World()


class Identity(BaseModel):
    """What makes a run the run it is: two with the same identity may go on from each other's checkpoints."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    contract: int = Field(default=1, description="raised by a stage when its older checkpoints no longer fit")
    parents: dict[str, str] = Field(default_factory=dict, description="role → digest")
    parameters: dict[str, Any] = Field(default_factory=dict, description="the settings that change the result")
    versions: dict[str, str] = Field(default_factory=dict, description="library → version")

    @field_validator("parameters")
    @classmethod
    def _as_read(cls, value: dict[str, Any]) -> dict[str, Any]:
        """As JSON gives them back, so that what was written equals what is read."""
        read: dict[str, Any] = json.loads(json.dumps(value))
        return read

    @property
    def digest(self) -> str:
        """Names the identity."""
        return digest_value(self.model_dump(mode="json"))

    def differences(self, other: Identity) -> list[str]:
        """Each field in which another run differs from this one: `parameters.learning_rate: 0.1 there, 0.2 here`."""
        return [
            f"{each.place}: {shown(each.old)} there, {shown(each.new)} here"
            for each in differences(other.model_dump(mode="json"), self.model_dump(mode="json"))
        ]


class Manifest(BaseModel):
    """A checkpoint. It exists when, and only when, its manifest does."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    format: int = FORMAT
    step: int = Field(ge=0, lt=10**10)
    files: dict[str, FileRef]
    identity: Identity
    metrics: dict[str, float] = Field(default_factory=dict)
    world: World = ALONE
    claim: int = Field(description="the number of the claim under which it was written")
    time: datetime

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files.values())

    def encoded(self) -> bytes:
        """As it is stored."""
        return self.model_dump_json().encode()


def decoded(content: bytes, where: str) -> Manifest:
    """The manifest in an object.

    Raises:
        DataError: it cannot be read, or is of a format that this version does not know.
    """
    try:
        read = json.loads(content)
        if isinstance(read, dict) and read.get("format", FORMAT) > FORMAT:
            raise DataError(f"{where}: of format {read['format']}, which a newer posttrain wrote; upgrade")
        return Manifest.model_validate(read)
    except (ValueError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise DataError(f"{where}: not a manifest ({reason})") from None
