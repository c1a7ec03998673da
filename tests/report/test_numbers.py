"""Numbers as text, and ticks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.report.numbers import interval, number, tick_labels, ticks


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (np.int64(12), "12"),
        (np.float32(0.25), "0.250"),
        (1234567, "1,234,567"),
        (10**20, "1e20"),
        (0.6312, "0.631"),
        (-0.5, "−0.500"),
        (0.00801, "0.00801"),
        (0.008, "0.008"),
        (12.345, "12.35"),
        (123.45, "123.5"),
        (51234.5, "51,234"),
        (3.2e-7, "3.2e−7"),
        (1e308, "1e308"),
        (5e-324, "4.94e−324"),
        (math.nan, "n/a"),
        (-math.inf, "−∞"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((-0.008, -0.019, 0.004), "−0.008 [−0.019, 0.004]"),
        ((12.34, 12.301, 12.379), "12.34 [12.30, 12.38]"),
        ((0.5, 0.49996, 0.50004), "0.50000 [0.49996, 0.50004]"),
        ((0.5, 0.5, 0.5), "0.500 [0.500, 0.500]"),
        ((0.5, None, math.nan), "0.500"),
        ((math.nan, 0.1, 0.2), "n/a [0.100, 0.200]"),
        ((1e12, 0, 2e12), "1e12 [0, 2e12]"),
    ],
)
def test_interval_is_as_precise_as_it_is_wide(values: tuple[float, float, float], text: str) -> None:
    assert interval(*values) == text


@pytest.mark.parametrize("low", [0, -1, 1e-12, -1e300, 1e9, 0.123, -5e-324])
@pytest.mark.parametrize("span", [0, 1e-300, 1e-9, 0.7, 3, 1e6, 2e300])
def test_ticks_enclose_the_range_and_are_few(low: float, span: float) -> None:
    high = min(low + span, 1e300)
    values = ticks(low, high)
    hair = 1e-6 * (values[1] - values[0])
    assert values[0] <= low + hair
    assert values[-1] >= high - hair
    assert values == sorted(set(values))
    assert 2 <= len(values) <= 12
    assert len(set(tick_labels(values))) == len(values)


def test_ticks_are_round() -> None:
    assert ticks(0.03, 0.97) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert tick_labels([0, 0.2, 0.4]) == ["0.0", "0.2", "0.4"]
    assert tick_labels([0, 250, 1000]) == ["0", "250", "1,000"]
    assert tick_labels([0, 500_000, 1_000_000]) == ["0", "500k", "1M"]
    assert tick_labels([]) == []
