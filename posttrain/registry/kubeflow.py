"""A registry whose versions a Kubeflow Model Registry lists, too.

The files and the index lie in a directory or bucket as ever, and the index decides; the server is told what it says,
after it says so. Whoever is told twice has changed nothing, so what failed half-way is mended by trying again, and a
server that comes later, or lost its data, is told of the versions before.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.digests import RECORD_FILE
from posttrain.artifacts.record import Record
from posttrain.errors import ContractError, DataError
from posttrain.registry.directory import Change, DirectoryRegistry, Promote
from posttrain.registry.index import Index, Version
from posttrain.registry.server import Server
from posttrain.storage import read_text

Property = str | float | bool
_AUTHOR = "posttrain"
_PREFIX = "posttrain_"  # of the properties that are ours; those of others are left alone
_DIGEST, _CHAMPION = f"{_PREFIX}digest", f"{_PREFIX}champion"


class KubeflowRegistry(DirectoryRegistry):
    """The registry at a URI, listed by a server."""

    def __init__(self, uri: str, server: Server) -> None:
        super().__init__(uri)
        self._server = server

    def register(
        self, model: str, policy: Artifact, decision: Artifact, when: datetime, promote: Promote = "proven"
    ) -> Change:
        """As in a directory; then the server is told.

        Raises:
            ContractError: the server lists versions of that name which this registry does not have.
        """
        self._agree(model)  # before anything is sent
        change = super().register(model, policy, decision, when, promote)
        self._tell(model)
        return change

    def roll_back(self, model: str, to: int | None = None, reason: str = "", dry_run: bool = False) -> Change:
        """As in a directory; then the server is told.

        Raises:
            ContractError: the server lists versions of that name which this registry does not have.
        """
        self._agree(model)
        change = super().roll_back(model, to, reason, dry_run)
        if not dry_run:
            self._tell(model)
        return change

    def _agree(self, model: str) -> None:
        registered = self._server.model(model)
        listed = self._server.versions(registered) if registered else []
        index = self.index(model)  # read last: what the server was told is in it
        ours = {_name(version): version.digest for version in index.versions}
        for there in listed:
            digest = _properties(there).get(_DIGEST)
            if ours.get(there.name) != digest:
                raise ContractError(self._others(model, there))

    def _others(self, model: str, there: Any) -> str:
        digest = str(_properties(there).get(_DIGEST, "of others"))[:12]
        return (
            f"{self._server.url}: lists a {there.name} of {model!r} ({digest}) which {self.uri} does not have; "
            "choose another model name"
        )

    def _tell(self, model: str) -> None:
        index = None
        while index != (now := self.index(model)):  # changed meanwhile: who changed it may have told before us
            index = now
            self._tell_of(index)

    def _tell_of(self, index: Index) -> None:
        champion = index.current
        named = {f"{_PREFIX}registry": self.uri, _CHAMPION: _name(champion) if champion else ""}
        model = self._server.model(index.model)
        if model is None:
            self._server.put_model(name=index.model, owner=_AUTHOR)
            model = self._server.model(index.model)
        listed = {version.name: version for version in self._server.versions(model)}
        for version in index.versions:
            self._tell_version(model, index, version, listed.get(_name(version)))
        if _properties(model) != (properties := {**_properties(model), **named}):
            self._server.put_model(**_fields(model), custom_properties=properties)

    def _tell_version(self, model: Any, index: Index, version: Version, there: Any) -> None:
        """Make it if it is not there; its mark, which goes last, says that it is whole."""
        name, mark = _name(version), version.version == index.champion
        if there is None:
            properties = described(version, self._record(index.model, version))
            about = f"{properties[f'{_PREFIX}method']}; {version.reason or 'no reason given'}"
            fields = {"name": name, "author": _AUTHOR, "description": about, "custom_properties": properties}
            there = self._server.put_version(model, **fields)
        if there is None:  # made meanwhile
            there = next(each for each in self._server.versions(model) if each.name == name)
        if _properties(there).get(_DIGEST) != version.digest:
            raise ContractError(self._others(index.model, there))
        if _properties(there).get(_CHAMPION) is mark:
            return
        if _CHAMPION not in _properties(there) and not self._server.artifacts(there):
            self._server.add_artifact(
                there,
                name=f"{index.model}-{name}",
                uri=self.policy_uri(index.model, version.version),
                model_format_name="safetensors",
                model_format_version="1",
                state="LIVE",
                custom_properties={_DIGEST: version.digest},
            )
        # The server replaces all properties by those that it is given.
        properties = {**_properties(there), _CHAMPION: mark}
        self._server.put_version(model, **_fields(there), custom_properties=properties)

    def _record(self, model: str, version: Version) -> Record:
        where = f"{self.policy_uri(model, version.version)}/{RECORD_FILE}"
        text = read_text(where)
        if text is None:
            raise DataError(f"{where}: not there, though the index has v{version.version}; put the policy back")
        return Record.model_validate(json.loads(text))


def described(version: Version, record: Record) -> dict[str, Property]:
    """What a version is, in flat properties: how it was made, from what, what was measured, and why it was let in."""
    trace = record.trace
    family = [
        {"name": each.name, "method": each.method, "digest": each.digest, "parents": _parents(each)}
        for each in record.family().values()
    ]
    told: dict[str, Property | None] = {
        "digest": version.digest,
        "method": record.method,
        "interface": record.interface,
        "role_declared": record.role,
        "role_measured": version.role,
        "provenance": trace.provenance if trace else None,
        "on_policy_fraction": trace.on_policy_fraction if trace else None,
        "self_generated_fraction": trace.self_generated_fraction if trace else None,
        "parents": json.dumps(_parents(record)),
        "lineage": json.dumps(family),
        "registered": version.registered.isoformat(),
        "decision": version.decision,
        "verdict": version.verdict,
        "reason": version.reason,
        "compared_with": version.against,
        **{f"evaluation_{name}": value for name, value in version.evaluation.items()},
        **{f"gate_{name}": value for name, value in version.metrics.items()},
    }
    return {
        _PREFIX + key: str(value) if isinstance(value, str) else value
        for key, value in told.items()
        if value is not None and value != ""
    }


def _parents(record: Record) -> list[list[str]]:
    return [[ref.role, ref.digest] for ref in record.parents]


def _name(version: Version) -> str:
    return f"v{version.version}"


def _properties(there: Any) -> dict[str, Property]:
    return dict(there.custom_properties or {})


def _fields(there: Any) -> dict[str, Any]:
    """What is there, to be put back with other properties."""
    return {name: getattr(there, name) for name in type(there).model_fields if name != "custom_properties"}
