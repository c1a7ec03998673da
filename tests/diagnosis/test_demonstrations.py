"""How surprising demonstrations are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.diagnosis.demonstrations import surprise
from posttrain.errors import ConfigError, DataError

demos = st.lists(st.lists(st.floats(1e-6, 1), min_size=1, max_size=6), min_size=1, max_size=10)


def test_every_demonstration_counts_once() -> None:
    found = surprise([np.log([0.5]), np.log([0.25] * 9)])
    assert found.loss.estimate == pytest.approx(1.5 * np.log(2))


@given(demos, st.floats(0.001, 0.5))
def test_bounds_and_order(rows, improbable) -> None:
    logprobs = [np.log(row) for row in rows]
    found = surprise(logprobs, improbable)
    assert 0 <= found.improbable_tokens.estimate <= found.surprising.estimate <= 1
    assert found.surprising.estimate == pytest.approx(np.mean([min(row) < improbable for row in rows]), abs=1e-9)
    laxer = surprise(logprobs, improbable * 1.5)
    assert laxer.surprising.estimate >= found.surprising.estimate
    assert laxer.loss == found.loss
    for interval in found:
        assert interval.low <= interval.estimate + 1e-12 and interval.estimate <= interval.high + 1e-12


def test_intervals_resample_demonstrations() -> None:
    found = surprise([np.log([0.9]), np.log([0.001])] * 50)
    assert found.surprising.width == pytest.approx(2 * 1.96 * 0.05, rel=0.1)


def test_nothing_to_go_by() -> None:
    assert not surprise([]).loss.known
    with pytest.raises(DataError, match="demonstration 1 has no tokens"):
        surprise([np.zeros(1), np.zeros(0)])
    with pytest.raises(ConfigError, match="improbable = 0"):
        surprise([np.zeros(1)], improbable=0)
