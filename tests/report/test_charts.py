"""Lines, bars and intervals: the right numbers, and no number that breaks them."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from posttrain.report.charts import Chart, Intervals, LineChart, Segment, Series, StackedBars
from posttrain.report.svg import WIDTH, clean, separate, text_width

NAN = math.nan
SUPPORT = [Segment("kept", "accent"), Segment("gained", "good"), Segment("lost", "bad")]


def parse(chart: Chart) -> ElementTree.Element:
    """The drawing, checked for what every drawing must be."""
    text = str(chart.svg())
    root = ElementTree.fromstring(text)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"].startswith(clean(chart.title))
    coordinates = [value for node in root.iter() for name, value in node.attrib.items() if name in {"d", "x", "y"}]
    assert not re.search("nan|inf|e[+-]", " ".join(coordinates))
    assert text == str(chart.svg())
    for swatch, _ in chart.legend():
        ElementTree.fromstring(str(swatch))
    return root


def texts(root: ElementTree.Element) -> list[str]:
    return [node.text or "" for node in root.iter("text")]


def titles(root: ElementTree.Element) -> list[str]:
    return [node.text or "" for node in root.iter("title")]


def drawn(root: ElementTree.Element, class_: str) -> list[ElementTree.Element]:
    return [node for node in root.iter() if class_ in node.attrib.get("class", "").split()]


def line(*points: tuple[float, float | None], band: list[tuple[float, float, float]] | None = None) -> LineChart:
    return LineChart("title", "step", "loss", [Series("one", points, band)])


@pytest.mark.parametrize(
    "chart",
    [
        LineChart("nothing", "x", "y", []),
        LineChart("nothing", "x", "y", [Series("empty", []), Series("gaps", [(1, NAN), (NAN, 2), (3, None)])]),
        LineChart("nothing", "x", "y", [Series("no logarithm", [(0, 1), (-2, 1)])], "log2"),
        StackedBars("nothing", SUPPORT, []),
        StackedBars("nothing", SUPPORT, [("row", [0, None, NAN])]),
        StackedBars("nothing", [], [("row", [])]),
        Intervals("nothing", []),
        Intervals("nothing", [("row", None, NAN, None)]),
    ],
)
def test_nothing_to_draw_says_so(chart: Chart) -> None:
    assert texts(parse(chart)) == ["no data"]


def test_line_shows_its_numbers() -> None:
    root = parse(line((1, 0.25), (2, 0.5), (4, 0.75)))
    assert titles(root) == ["one: 0.250 at step 1", "one: 0.500 at step 2", "one: 0.750 at step 4"]
    assert "0.750" in texts(root)
    assert root.attrib["aria-label"] == "title: loss by step. one from 0.250 at 1 to 0.750 at 4."


def test_one_point_with_its_interval() -> None:
    root = parse(line((3, 4.0), band=[(3, 2.0, 5.0)]))
    assert len(drawn(root, "mark")) == 1
    assert len(drawn(root, "whisker")) == 1
    assert not drawn(root, "line")


def test_a_gap_breaks_the_line_and_its_band_and_is_counted() -> None:
    points = [(0, 1), (1, 2), (2, None), (3, 2), (4, 3), (5, NAN), (6, 1)]
    chart = line(*points, band=[(x, 0.5, 3.5) for x in (0, 1, 3, 4, 6)])
    root = parse(chart)
    assert len(drawn(root, "line")) == 2
    assert len(drawn(root, "band")) == 2
    assert len(drawn(root, "mark")) == 5
    assert "not drawn: 2" in chart.note()


@pytest.mark.parametrize(
    "values",
    [
        [1e299, -1e299],
        [1e308, 1.0],
        [math.inf, 2.0],
        [5e-324, 0.0],
        [1e-12, 2e-12],
        [1e9, 1e9 + 1e-3],
        [7, 7],
        [0, 0],
        [-3, -3],
    ],
)
def test_huge_tiny_and_equal_values(values: list[float]) -> None:
    for scale in ("linear", "log2"):
        points = [(index + 1, value) for index, value in enumerate(values)]
        parse(LineChart("title", "x", "y", [Series("a", points), Series("b", [(1e-300, 1), (1e250, 2)])], scale))
    parse(Intervals("title", [("a", values[0], values[1], values[0]), ("b", 0, -1, 1)]))
    parse(StackedBars("title", [Segment("a"), Segment("b")], [("row", values)]))


def test_long_curve_is_thinned_but_keeps_its_spike() -> None:
    points = [(step, 0.5 + (step == 4321) * 8.0) for step in range(20_000)]
    root = parse(line(*points))
    (path,) = drawn(root, "line")
    places = [tuple(map(float, pair.split())) for pair in path.attrib["d"].removeprefix("M").split("L")]
    assert len(places) < 500
    assert min(y for _, y in places) < 60
    assert len(drawn(root, "mark")) < 20


def test_doubling_axis_spaces_powers_evenly() -> None:
    chart = LineChart("pass@k", "k", "pass@k", [Series("a", [(2**p, p / 10) for p in range(8)])], "log2")
    root = parse(chart)
    ticks = [node for node in drawn(root, "tick") if node.attrib["text-anchor"] == "middle"]
    assert [node.text for node in ticks] == ["1", "2", "4", "8", "16", "32", "64", "128"]
    places = [float(node.attrib["x"]) for node in ticks]
    steps = {round(right - left) for left, right in pairwise(places)}
    assert max(steps) - min(steps) <= 1


@pytest.mark.parametrize("last", [7, 20, 40, 200])
def test_axis_labels_do_not_touch(last: int) -> None:
    chart = LineChart("title", "k", "y", [Series("a", [(1, 0.1), (2.0**last, 0.5)])], "log2")
    labels = [node for node in drawn(parse(chart), "tick") if node.attrib["text-anchor"] == "middle"]
    ends = [(float(node.attrib["x"]), text_width(node.text or "") / 2) for node in labels]
    assert all(a + half <= b - other for (a, half), (b, other) in pairwise(ends))
    assert ends[-1][0] + ends[-1][1] <= WIDTH


def test_range_is_a_least_range_never_a_crop() -> None:
    inside = parse(LineChart("title", "x", "y", [Series("a", [(0, 0.4), (1, 0.6)])], y_range=(0, 1)))
    outside = parse(LineChart("title", "x", "y", [Series("a", [(0, 0.4), (1, 1.6)])], y_range=(0, 1)))
    assert "1.0" in texts(inside)
    assert "2.0" in texts(outside)


def test_series_differ_by_more_than_colour() -> None:
    chart = LineChart("title", "x", "y", [Series(f"s{index}", [(0, index), (1, index)]) for index in range(30)])
    root = parse(chart)
    groups = [group for group in root.findall("g") if group.find("path[@class='line']") is not None]
    looks = {
        (group.attrib["class"], group.find("path").attrib.get("stroke-dasharray"), group.findall("path")[1].attrib["d"])  # type: ignore[union-attr]
        for group in groups
    }
    assert len(looks) == len(chart.legend()) == 30


def test_end_labels_keep_apart() -> None:
    chart = LineChart("title", "x", "y", [Series(str(index), [(0, index), (1, 5.0)]) for index in range(6)])
    heights = [float(node.attrib["y"]) for node in drawn(parse(chart), "end")]
    assert len(heights) == 6
    assert all(below - above >= 12.9 for above, below in pairwise(heights))


def test_bars_show_every_count_and_share_a_scale() -> None:
    root = parse(StackedBars("support", SUPPORT, [("sft", [60, 39, 1]), ("grpo", [50, 0, 0])]))
    assert "60" in texts(root)
    assert "lost 1 · n 100" in texts(root)
    assert "n 50" in texts(root)
    widths = [float(bar.attrib["width"]) for bar in drawn(root, "bar")]
    assert widths == [263.0, 170.6, 3.4, 219.0]
    assert root.attrib["aria-label"] == "support. sft: kept 60, gained 39, lost 1; grpo: kept 50, gained 0, lost 0."


def test_bars_reject_counts_without_a_segment() -> None:
    with pytest.raises(ValueError, match="bar 'sft': 2 counts for 3 segments"):
        StackedBars("support", SUPPORT, [("sft", [1, 2])])


def test_intervals_show_numbers_and_fill_the_dots_that_exclude_the_reference() -> None:
    chart = Intervals("gain", [("a", 0.2, 0.1, 0.3), ("b", 0.05, -0.1, 0.2), ("c", 0.1, None, None)])
    root = parse(chart)
    assert "0.200 [0.100, 0.300]" in texts(root)
    assert ["hollow" in dot.attrib["class"] for dot in drawn(root, "dot")] == [False, True, True]
    assert len(drawn(root, "whisker")) == 2
    assert drawn(root, "reference")
    assert "contains 0" in chart.note()


def test_long_labels_are_cut_but_whole_in_the_tooltip() -> None:
    name = "a label much longer than any chart is wide " * 4
    for chart in (Intervals("title", [(name, 1, 0, 2)]), StackedBars("title", SUPPORT, [(name, [1, 2, 3])])):
        root = parse(chart)
        assert any(title.startswith(name) for title in titles(root))
        assert all(text_width(text) <= WIDTH for text in texts(root))


def test_separate_moves_as_little_as_needed() -> None:
    assert separate([10, 50], [20], 0, 100) == [10, 50]
    assert separate([50, 50], [20], 0, 100) == [40, 60]
    assert separate([50, 50], [20], 0, 55) == [35, 55]
    assert separate([5, 5, 5], [20, 20], 0, 10) == [0, 20, 40], "too little room: the order and the gaps hold"
    assert separate([0, 10], [20], -50, 50, [3, 1]) == [-2.5, 17.5]
    assert separate([], [], 0, 10) == []
