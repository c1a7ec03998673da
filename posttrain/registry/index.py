"""What a registry knows of a model, and what changes it: the index before → the index after, as data."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Version(BaseModel):
    """One registered policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    digest: str
    decision: str = Field(description="digest of the gate's decision that let it in")
    registered: datetime
    metrics: dict[str, float] = Field(default_factory=dict, description="the decision's")
    against: str = Field(default="", description="digest of the policy that the gate compared it with, if known")
    verdict: str = Field(default="", description="the gate's")
    reason: str = Field(default="", description="the gate's")
    role: str = Field(default="", description="measured by its evaluation")
    evaluation: dict[str, float] = Field(default_factory=dict, description="metrics of its held-out evaluation")


class Promotion(BaseModel):
    """A version became the champion: by a gate's decision, or by hand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    when: datetime
    decision: str = Field(default="", description="digest of the gate's decision; empty = by hand")
    reason: str = ""


class Index(BaseModel):
    """A model's versions, which of them is the champion, and how that came."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    champion: int | None = None
    versions: list[Version] = Field(default_factory=list)
    promotions: list[Promotion] = Field(default_factory=list, description="oldest first")
    uploading: dict[str, int] = Field(default_factory=dict, description="digest → the version that it will be")

    @model_validator(mode="before")
    @classmethod
    def _written_before_promotions_were(cls, data: dict[str, object]) -> dict[str, object]:
        """Every version was champion once it was registered, then."""
        versions = data.get("versions")
        if data.get("promotions") or data.get("champion") is None or not isinstance(versions, list):
            return data
        made = sorted(map(Version.model_validate, versions), key=lambda version: version.version == data["champion"])
        by_gate = [Promotion(version=each.version, when=each.registered, decision=each.decision) for each in made]
        return {**data, "promotions": by_gate}

    @property
    def current(self) -> Version | None:
        """The champion."""
        return self.numbered(self.champion)

    def numbered(self, number: int | None) -> Version | None:
        """The version with that number."""
        return next((version for version in self.versions if version.version == number), None)

    def of(self, digest: str) -> Version | None:
        """The version with that content."""
        return next((version for version in self.versions if version.digest == digest), None)

    @property
    def line(self) -> list[int]:
        """The champions that led to the present one, without those that were rolled back."""
        line: list[int] = []
        for promotion in self.promotions:
            if not promotion.decision and promotion.version in line:
                del line[line.index(promotion.version) :]
            line.append(promotion.version)
        return line

    def reserving(self, digest: str) -> Index:
        """A number for what is about to be uploaded; a try that died left its own for the next one."""
        if self.of(digest) or digest in self.uploading:
            return self
        taken = [version.version for version in self.versions] + list(self.uploading.values())
        return self.model_copy(update={"uploading": {**self.uploading, digest: 1 + max(taken, default=0)}})

    def entering(self, version: Version) -> Index:
        """With a version whose files are whole."""
        if self.of(version.digest):
            return self
        left = {digest: number for digest, number in self.uploading.items() if digest != version.digest}
        versions = sorted([*self.versions, version], key=lambda each: each.version)
        return self.model_copy(update={"versions": versions, "uploading": left})

    def promoting(self, promotion: Promotion) -> Index:
        """With another champion."""
        if promotion.version == self.champion:
            return self
        return self.model_copy(
            update={"champion": promotion.version, "promotions": [*self.promotions, promotion]},
        )
