"""Metadata survives the KFP backend. `stored` does what backend/src/v2/metadata/converter.go and MLMD do to it."""

import json
import math
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.artifacts.metadata import decode, encode
from tests.artifacts.records import records


def stored(metadata):
    """What the next task reads where a task wrote `metadata`."""
    return {key: _converted(key, value) for key, value in metadata.items()} | {
        "display_name": "scored",
        "store_session_info": '{"Provider":"s3"}',
    }


def _converted(key, value):
    if isinstance(value, str):
        return value.encode("utf-8").decode("utf-8")
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{key}: {value} has no place in a protobuf value or in the store")
    if isinstance(value, bool | int | float):
        return float(f"{float(value):.6f}")  # std::to_string
    return {"list": value} if isinstance(value, list) else {"struct": value}


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(records(ancestors=0))
def test_what_arrives_is_what_was_written(record):
    written = encode(record)
    assert all(isinstance(value, str) for value in written.values())
    arrived = decode(stored(json.loads(json.dumps(written))))
    assert repr(arrived) == repr(decode(written))
    assert arrived["digest"] == record.digest
    assert repr(arrived["facts"]) == repr(dict(sorted(record.facts.items())))
    assert arrived["parents"] == [[ref.role, ref.digest] for ref in record.parents]
    assert repr(arrived["seconds"]) == repr(record.seconds)
    for name in ("on_policy_fraction", "self_generated_fraction", "provenance"):
        assert arrived.get(name) == (getattr(record.trace, name) if record.trace else None)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(records(ancestors=0))
def test_keys_are_ours_and_plain(record):
    assert all(re.fullmatch(r"posttrain_[a-z_]+", key) for key in encode(record))


@pytest.mark.parametrize("value", [1 / 3, 1e-7, True, 2**53 + 1, ["a"], {"a": 1}], ids=repr)
def test_what_is_not_a_string_would_not_survive(value):
    arrived = stored({"key": value})["key"]
    assert (type(arrived), arrived) != (type(value), value)


@pytest.mark.parametrize("value", [None, math.inf, -math.inf, math.nan])
def test_what_the_backend_refuses_is_refused_here(value):
    with pytest.raises(ValueError, match="no place"):
        stored({"key": value})


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(records(ancestors=0).filter(lambda record: record.trace is not None), st.sampled_from([1 / 3, 1e-7]))
def test_a_naive_encoding_would_not_survive(record, fraction):
    naive = {"on_policy_fraction": fraction, "parents": [ref.digest for ref in record.parents]}
    arrived = stored(naive)
    assert all(arrived[key] != value for key, value in naive.items())


def test_a_converted_value_under_our_key_is_an_error():
    with pytest.raises(ValueError, match="posttrain_seconds: float"):
        decode({"posttrain_seconds": 1.5})
