"""A registry in a directory or bucket: ordinary Hugging Face directories and one index.

    <uri>/<model>/v3/          the policy with its record, ready to be served from here
    <uri>/<model>/index.json   versions in order, the champion, and how it became that

A version's number is reserved in the index, its files are put in place, and then the index says that it is there: a
reader never sees a version that is not whole. The index is only ever exchanged for one made from what is there now,
so runs that register at the same time lose nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import ValidationError

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.digests import RECORD_FILE
from posttrain.artifacts.record import Record
from posttrain.errors import ConfigError, DataError, PosttrainError, StorageError, nearest
from posttrain.registry.index import Index, Promotion, Version
from posttrain.storage import read_text
from posttrain.storage.references import publish_artifact
from posttrain.storage.store import open_store

Promote = Literal["proven", "always", "never"]
INDEX_FILE = "index.json"
_TRIES = 200  # of exchanging an index that others exchange, too


@dataclass(frozen=True)
class Change:
    """What was done: the version that it is about, the champion before and after, and why it is not that version."""

    version: Version
    before: Version | None
    after: Version | None
    why_not: str = ""

    @property
    def promoted(self) -> bool:
        """Whether the version is the champion now."""
        return self.after is not None and self.after.version == self.version.version


class DirectoryRegistry:
    """The registry at a URI (a path, `file://` or `s3://`).

    Every method raises StorageError if the store failed, and DataError if an index cannot be read.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")

    def models(self) -> list[str]:
        """Names of what is registered here."""
        places = (entry.name.split("/") for entry in open_store(self.uri).list())
        return sorted(place[0] for place in places if place[1:] == [INDEX_FILE])

    def index(self, model: str) -> Index:
        """What is registered under that name."""
        return self._index(model, open_store(f"{self.uri}/{model}").read(INDEX_FILE))

    def known(self, model: str) -> Index:
        """What is registered under that name, which must be something.

        Raises:
            ConfigError: there is no such model.
        """
        index = self.index(model)
        if not index.versions:
            others = [name for name in self.models() if name != model]
            remedy = nearest(model, others) if others else "; nothing else is registered there, check the URI"
            raise ConfigError(f"{self.uri}: no model {model!r} is registered{remedy}")
        return index

    def champion(self, model: str) -> Version | None:
        """The version that others are compared with, and that is served."""
        return self.index(model).current

    def policy_uri(self, model: str, version: int) -> str:
        """Where a version lies."""
        return f"{self.uri}/{model}/v{version}"

    def register(
        self, model: str, policy: Artifact, decision: Artifact, when: datetime, promote: Promote = "proven"
    ) -> Change:
        """Add a policy as the next version; one that is registered already keeps its number.

        It becomes the champion if there is none yet, or if the decision compared it with the one there is (`proven`);
        `always` and `never` say otherwise.

        Raises:
            DataError: the policy's files are not as recorded.
        """
        index = self._exchange(model, lambda index: index.reserving(policy.digest))[1]
        version = index.of(policy.digest) or self._placed(index, policy, decision.record, when)
        reason = str(decision.record.facts.get("reason", ""))
        promotion = Promotion(version=version.version, when=when, decision=decision.digest, reason=reason)

        def enter(index: Index) -> Index:
            entered = index.entering(version)
            return entered if self._why_not(index, version, decision.record, promote) else entered.promoting(promotion)

        before, after = self._exchange(model, enter)
        why_not = self._why_not(before, version, decision.record, promote)
        return Change(after.of(policy.digest) or version, before.current, after.current, why_not)

    def roll_back(self, model: str, to: int | None = None, reason: str = "", dry_run: bool = False) -> Change:
        """Make another version the champion, by hand: the champion before this one, or any that is registered.

        Raises:
            ConfigError: there is no such model or version, or no champion before this one.
        """
        when = datetime.now(UTC)

        def promote(index: Index) -> Index:
            return index.promoting(Promotion(version=self._target(index, to).version, when=when, reason=reason))

        before = self.known(model)
        after = promote(before)
        if not dry_run:
            before, after = self._exchange(model, promote)
        assert after.current
        return Change(after.current, before.current, after.current)

    def _target(self, index: Index, to: int | None) -> Version:
        if to is None and len(index.line) < 2:
            what = f"no champion before v{index.champion}" if index.champion else "no version is champion"
            raise ConfigError(f"{self.uri}/{index.model}: {what}; name a version by --to")
        found = index.numbered(index.line[-2] if to is None else to)
        if found is None:
            known = ", ".join(str(version.version) for version in index.versions)
            raise ConfigError(f"{self.uri}/{index.model}: no version {to}; registered: {known}")
        return found

    def _why_not(self, index: Index, version: Version, decision: Record, promote: Promote) -> str:
        """Why a version does not become the champion; empty if it does, or is."""
        champion, against = index.current, str(decision.facts.get("champion", ""))
        if champion and champion.digest == version.digest:
            return ""
        if promote == "never":
            return "promote is never"
        if champion is None or promote == "always" or against == champion.digest:
            return ""
        compared = f"with {against[:12]}" if against else "with a policy that it does not name"
        return (
            f"the gate compared it {compared}, and the champion is v{champion.version} ({champion.digest[:12]}): "
            f"evaluate and gate it against {self.policy_uri(index.model, champion.version)}, or make it champion by "
            f"posttrain rollback {index.model} --registry {self.uri} --to {version.version}"
        )

    def _placed(self, index: Index, policy: Artifact, decision: Record, when: datetime) -> Version:
        """A policy's version, its files in place under the number that the index reserved."""
        version = _version(index.uploading[policy.digest], policy, decision, when)
        self._publish(policy, self.policy_uri(index.model, version.version))
        return version

    def _publish(self, policy: Artifact, uri: str) -> None:
        """Put the policy in place, unless an earlier try of the same did."""
        if self._holds(uri, policy):
            return
        try:
            publish_artifact(policy, uri)
        except PosttrainError:
            if not self._holds(uri, policy):  # else another run has registered the same policy meanwhile
                raise

    def _holds(self, uri: str, policy: Artifact) -> bool:
        text = read_text(f"{uri}/{RECORD_FILE}")
        return text is not None and json.loads(text)["digest"] == policy.digest

    def _exchange(self, model: str, change: Callable[[Index], Index]) -> tuple[Index, Index]:
        """Change the index as it is at that moment; returns it before and after."""
        store = open_store(f"{self.uri}/{model}")
        for _ in range(_TRIES):
            seen = store.read(INDEX_FILE)
            before = self._index(model, seen)
            after = change(before)
            text = after.model_dump_json(indent=1, exclude_defaults=True) + "\n"
            if after == before or store.swap(INDEX_FILE, seen, text.encode()):
                return before, after
        raise StorageError(f"{store.uri}/{INDEX_FILE}: changed by others all the time, {_TRIES} tries; try again")

    def _index(self, model: str, content: bytes | None) -> Index:
        try:
            return Index.model_validate_json(content) if content else Index(model=model)
        except ValidationError as error:
            where = f"{self.uri}/{model}/{INDEX_FILE}"
            raise DataError(f"{where}: no index ({str(error).splitlines()[0]}); put an earlier copy back") from None


def _version(number: int, policy: Artifact, decision: Record, when: datetime) -> Version:
    evaluation, facts = decision.parent("candidate"), decision.facts
    return Version(
        version=number,
        digest=policy.digest,
        decision=decision.digest,
        registered=when,
        metrics=_known(decision.metrics),
        against=str(facts.get("champion", "")),
        verdict=str(facts.get("verdict", "")),
        reason=str(facts.get("reason", "")),
        role=str(evaluation.facts.get("role_measured", "")) if evaluation else "",
        evaluation=_known(evaluation.metrics) if evaluation else {},
    )


def _known(metrics: Mapping[str, float]) -> dict[str, float]:
    """JSON has no word for what could not be measured."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
