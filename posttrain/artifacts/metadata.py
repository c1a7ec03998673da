"""The flat face of a record: what goes into a KFP artifact's metadata.

The backend stores bools as 0/1, wraps lists and dicts, and fails a task on null (kubeflow/pipelines
backend/src/v2/metadata/converter.go). So only strings and numbers go in; what is nested becomes one JSON string.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from posttrain.artifacts.record import Record

MetadataValue = str | float

# Keys that the backend adds on its own; they are not ours and must not be copied on.
BACKEND_KEYS = frozenset({"display_name", "store_session_info"})

_PREFIX = "posttrain_"


def encode(record: Record) -> dict[str, MetadataValue]:
    """Flat strings and numbers only; empty fields are left out rather than written as null."""
    trace = record.trace
    fields: dict[str, MetadataValue | None] = {
        "kind": record.kind.value,
        "stage": record.stage,
        "name": record.name,
        "method": record.method,
        "digest": record.digest,
        "interface": record.interface,
        "role": record.role,
        "provenance": trace.provenance if trace else None,
        "on_policy_fraction": trace.on_policy_fraction if trace else None,
        "self_generated_fraction": trace.self_generated_fraction if trace else None,
        "parents": json.dumps([[ref.role, ref.digest] for ref in record.parents]),
        "facts": json.dumps(record.facts, sort_keys=True),
        "seconds": round(record.seconds, 3),
    }
    return {
        _PREFIX + key: str(value) if isinstance(value, str) else float(value)
        for key, value in fields.items()
        if value is not None and value != ""
    }


def decode(metadata: Mapping[str, object]) -> dict[str, object]:
    """What `encode` wrote, with nested values restored; foreign keys are dropped.

    Raises:
        ValueError: a value of ours is neither a string nor a number, or a nested one is not JSON.
    """
    decoded: dict[str, object] = {}
    for key, value in metadata.items():
        if not key.startswith(_PREFIX):
            continue
        name = key.removeprefix(_PREFIX)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"metadata {key}: {type(value).__name__} {value!r}; only strings and numbers survive KFP")
        decoded[name] = json.loads(value) if name in ("parents", "facts") and isinstance(value, str) else value
    return decoded
