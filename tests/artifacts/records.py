"""Records of every form, for hypothesis."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from hypothesis import strategies as st

from posttrain.artifacts.provenance import Trace
from posttrain.artifacts.record import Environment, FileEntry, ParentRef, Record
from posttrain.taxonomy import Interface, Kind, Provenance, Role

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
DIGEST = st.sampled_from(["a" * 64, "0" * 64, "deadbeef" * 8])
# Whole numbers beyond 2**53 do not survive a store of doubles, so there must be some.
NUMBER = st.floats() | st.integers(-(2**63), 2**63 - 1)
FRACTION = st.floats(0, 1)

TRACE = st.builds(
    Trace,
    provenance=st.sampled_from(Provenance),
    on_policy_fraction=FRACTION,
    self_generated_fraction=FRACTION,
    rows=st.integers(0, 10**9),
    samplers=st.dictionaries(DIGEST, st.integers(0, 9), max_size=2),
    staleness=st.dictionaries(st.integers(0, 9), st.integers(0, 9), max_size=3),
)


def records(ancestors: int = 1) -> st.SearchStrategy[Record]:
    """Records with up to so many generations of ancestors."""
    older: st.SearchStrategy[Any] = st.just({})
    if ancestors:
        older = st.dictionaries(DIGEST, records(ancestors - 1), max_size=2)
    return st.builds(
        Record,
        kind=st.sampled_from(Kind),
        stage=TEXT,
        method=TEXT,
        name=TEXT,
        digest=DIGEST,
        files=st.dictionaries(TEXT, st.builds(FileEntry, sha256=DIGEST, size=st.integers(0)), max_size=2),
        interface=st.none() | st.sampled_from(Interface),
        role=st.none() | st.sampled_from(Role),
        trace=st.none() | TRACE,
        parents=st.lists(
            st.builds(ParentRef, role=TEXT, kind=st.sampled_from(Kind), id=DIGEST, digest=DIGEST), max_size=3
        ),
        parameters=st.dictionaries(TEXT, st.booleans() | TEXT | st.lists(st.integers(0, 3)), max_size=2),
        facts=st.dictionaries(TEXT, TEXT | NUMBER, max_size=4),
        metrics=st.dictionaries(TEXT, st.floats(), max_size=2),
        counts=st.dictionaries(TEXT, st.integers(0), max_size=2),
        curves=st.dictionaries(TEXT, st.lists(st.lists(st.floats(), min_size=2, max_size=2), max_size=2), max_size=1),
        environment=st.builds(Environment, versions=st.dictionaries(TEXT, TEXT, max_size=2), image=TEXT, host=TEXT),
        started=st.datetimes(timezones=st.just(UTC)),
        seconds=st.floats(0, 1e9),
        ancestors=older,
    )
