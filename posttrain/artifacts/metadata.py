"""The flat face of a record: what goes into a KFP artifact's metadata. Strings only.

The backend stores bools as 0/1, wraps lists and dicts, fails a task on null and on infinity (kubeflow/pipelines
backend/src/v2/metadata/converter.go), and its store rounds numbers to six decimals. A string arrives as it was, so
numbers are written out and what is nested becomes JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from posttrain.artifacts.record import Record

_PREFIX = "posttrain_"
FILES_KEY = "posttrain_files"  # of an artifact by reference: where its files lie
_NUMBERS = ("on_policy_fraction", "self_generated_fraction", "seconds")
_NESTED = ("parents", "facts")


def encode(record: Record) -> dict[str, str]:
    """The record's axes, digests and facts; empty fields are left out."""
    trace = record.trace
    fields: dict[str, object] = {
        "kind": record.kind.value,
        "stage": record.stage,
        "name": record.name,
        "method": record.method,
        "digest": record.digest,
        "id": record.id,
        "interface": record.interface,
        "role": record.role,
        "absent": record.absent,
        "provenance": trace.provenance if trace else None,
        "on_policy_fraction": repr(trace.on_policy_fraction) if trace else None,
        "self_generated_fraction": repr(trace.self_generated_fraction) if trace else None,
        "parents": json.dumps([[ref.role, ref.digest] for ref in record.parents]),
        "facts": json.dumps(record.facts, sort_keys=True),
        "seconds": repr(record.seconds),
    }
    return {_PREFIX + key: str(value) for key, value in fields.items() if value not in (None, "")}


def decode(metadata: Mapping[str, object]) -> dict[str, object]:
    """What `encode` wrote, numbers and nested values restored; keys that are not ours are dropped.

    Raises:
        ValueError: a value of ours is not the string that was written.
    """
    decoded: dict[str, object] = {}
    for key, value in metadata.items():
        if not key.startswith(_PREFIX):
            continue
        if not isinstance(value, str):
            raise ValueError(f"metadata {key}: {type(value).__name__} {value!r} where a string was written")
        name = key.removeprefix(_PREFIX)
        decoded[name] = float(value) if name in _NUMBERS else json.loads(value) if name in _NESTED else value
    return decoded
