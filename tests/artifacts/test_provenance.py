"""Provenance is computed from rows, compared with the promise, and overridden only by name."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.artifacts.provenance import agree, offline, online
from posttrain.errors import ContractError, ProvenanceError
from posttrain.taxonomy import METHODS, Provenance

LEARNER = "a" * 64
SAMPLERS = st.lists(st.sampled_from([LEARNER, "b" * 64, "", None]), max_size=40)
STALENESS = st.dictionaries(st.integers(0, 9), st.integers(1, 1000), max_size=6)


@given(SAMPLERS)
def test_a_fixed_batch_is_off_policy_whoever_sampled_it(samplers):
    trace = offline(samplers, LEARNER)
    own = samplers.count(LEARNER)
    assert trace.provenance is Provenance.OFF_POLICY
    assert trace.on_policy_fraction == 0
    assert trace.self_generated_fraction == (own / len(samplers) if samplers else 0)
    assert trace.rows == len(samplers)
    assert trace.samplers == Counter(sampler or "" for sampler in samplers)


def test_own_samples_filtered_and_kept_are_self_generated_and_off_policy():
    trace = offline([LEARNER] * 7, LEARNER)
    assert (trace.self_generated_fraction, trace.on_policy_fraction) == (1.0, 0.0)
    agree("sft", trace)


@given(STALENESS, st.integers(0, 9))
def test_a_rollout_counts_as_on_policy_within_the_bound(staleness, bound):
    trace = online(staleness, LEARNER, bound)
    fresh = sum(rows for steps, rows in staleness.items() if steps <= bound)
    assert trace.rows == sum(staleness.values())
    assert trace.on_policy_fraction == (fresh / trace.rows if trace.rows else 0)
    assert (trace.provenance is Provenance.ON_POLICY) == (0 < fresh == trace.rows)
    assert trace.self_generated_fraction == (1 if staleness else 0)
    assert trace.samplers == {LEARNER: trace.rows}


@given(STALENESS, st.integers(0, 8))
def test_a_wider_bound_never_makes_it_less_on_policy(staleness, bound):
    narrow, wide = online(staleness, LEARNER, bound), online(staleness, LEARNER, bound + 1)
    assert narrow.on_policy_fraction <= wide.on_policy_fraction


def test_one_stale_row_makes_it_mixed_and_is_refused_in_one_line():
    trace = online({0: 99, 3: 1}, LEARNER, 2)
    assert trace.provenance is Provenance.MIXED
    with pytest.raises(ProvenanceError) as raised:
        agree("grpo", trace)
    line = str(raised.value)
    assert "\n" not in line
    for mention in ("grpo promises on-policy", "1.0% of 100 rows", "{0: 99, 3: 1}", "accept_provenance=mixed"):
        assert mention in line
    assert isinstance(raised.value, ContractError)


@pytest.mark.parametrize("accepted", ["", "off-policy", "on-policy"])
def test_only_the_computed_name_overrides(accepted):
    trace = online({5: 1}, LEARNER, 0)
    with pytest.raises(ProvenanceError):
        agree("grpo", trace, accepted)
    agree("grpo", trace, "mixed")


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.provenance])
def test_each_learning_method_takes_its_own_kind_only(method):
    traces = [offline([LEARNER], LEARNER), online({0: 1}, LEARNER, 0), online({1: 1}, LEARNER, 0)]
    fitting = []
    for trace in traces:
        try:
            agree(method, trace)
        except ProvenanceError:
            continue
        fitting.append(trace.provenance)
    promised = METHODS[method].provenance
    # A mixture is promised with no share, so a share of nothing or of everything is one too.
    assert fitting == ([promised] if promised is not Provenance.MIXED else [trace.provenance for trace in traces])
