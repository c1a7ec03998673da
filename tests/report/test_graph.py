"""Lineage drawings: nothing overlaps, whatever the graph."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import combinations
from xml.etree import ElementTree

import pytest

from posttrain.report.charts import Graph, Node
from posttrain.report.svg import SMALL, WIDTH, text_width

Box = tuple[float, float, float, float]


def drawing(graph: Graph) -> ElementTree.Element:
    text = str(graph.svg())
    assert text == str(graph.svg())
    return ElementTree.fromstring(text)


def boxes(root: ElementTree.Element) -> list[Box]:
    found = []
    for rect in root.iter("rect"):
        x, y, width, height = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        found.append((x, y, x + width, y + height))
    return found


def edge_labels(root: ElementTree.Element) -> list[Box]:
    found = []
    for text in root.findall("text"):
        x, y, half = float(text.attrib["x"]), float(text.attrib["y"]), text_width(text.text or "", SMALL) / 2
        found.append((x - half, y - 9, x + half, y + 3))
    return found


def overlap(one: Box, other: Box) -> bool:
    return min(one[2], other[2]) - max(one[0], other[0]) > 0.5 and min(one[3], other[3]) - max(one[1], other[1]) > 0.5


def along(path: str) -> Iterator[tuple[float, float]]:
    """Points along an edge's path."""
    x = y = 0.0
    for command, rest in re.findall(r"([MLVC])([^MLVC]*)", path):
        numbers = [float(number) for number in rest.split()]
        if command == "V":
            numbers = [x, *numbers]
        *bends, end = list(zip(numbers[::2], numbers[1::2], strict=True))
        points = [(x, y), *(bends or [(x, y), end]), end] if command != "M" else [end] * 4
        for step in range(21):
            t = step / 20
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
            yield tuple(sum(w * p[axis] for w, p in zip(weights, points, strict=True)) for axis in (0, 1))  # type: ignore[misc]
        x, y = end


def inside(point: tuple[float, float], box: Box) -> bool:
    return box[0] + 1 < point[0] < box[2] - 1 and box[1] + 1 < point[1] < box[3] - 1


def check(graph: Graph) -> ElementTree.Element:
    """No box or label lies on another or outside, no edge crosses a box, and every box's text fits it."""
    root = drawing(graph)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    things = boxes(root) + edge_labels(root)
    assert len(boxes(root)) == len(graph.nodes)
    assert not [(one, other) for one, other in combinations(things, 2) if overlap(one, other)]
    assert all(x >= 0 and y >= 0 and right <= width and bottom <= height for x, y, right, bottom in things)
    for path in root.findall("g/path[@class='edge']"):
        assert not [(point, box) for point in along(path.attrib["d"]) for box in boxes(root) if inside(point, box)]
    for group in root.findall("g[rect]"):
        room = float(group.find("rect").attrib["width"])  # type: ignore[union-attr]
        for text in group.findall("text"):
            size = SMALL if text.attrib["class"] == "small" else 12
            assert text_width(text.text or "", size) <= room
    return root


def scattered(count: int, seed: int) -> Graph:
    draw = random.Random(seed)
    labels = [
        "sft",
        "evaluation",
        "on-policy distillation",
        "a_name_without_any_blank_in_it_that_goes_on",
        "数据集 准备",
    ]
    nodes = [Node(str(i), draw.choice(labels), draw.choice(["", "12,345 rows"]), "accent") for i in range(count)]
    edges = [
        (str(parent), str(i), draw.choice(["init", "data[0]", "teacher[0]", ""]))
        for i in range(1, count)
        for parent in draw.sample(range(i), min(i, draw.choice([0, 1, 1, 2, 3])))
    ]
    return Graph("scattered", nodes, edges)


def diamond(branches: int) -> Graph:
    middle = [f"branch {index}" for index in range(branches)]
    nodes = [Node("root", "root"), *(Node(name, name) for name in middle), Node("end", "merged")]
    edges = [("root", name, "init") for name in middle] + [(name, "end", "candidate") for name in middle]
    return Graph("diamond", nodes, edges)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("count", [1, 2, 5, 14, 25])
def test_scattered_graphs(count: int, seed: int) -> None:
    check(scattered(count, seed))


@pytest.mark.parametrize("branches", [1, 2, 5, 28])
def test_diamond_stays_within_480_pixels(branches: int) -> None:
    root = check(diamond(branches))
    assert float(root.attrib["viewBox"].split()[2]) == WIDTH
    assert [text.text for text in root.findall("text")].count("candidate") == 1, "merged edges have one label"


def test_arrows_point_down() -> None:
    graph = scattered(14, 3)
    tops = {node.id: box[1] for node, box in zip(graph.nodes, boxes(drawing(graph)), strict=True)}
    assert graph.edges
    assert all(tops[start] < tops[end] for start, end, _ in graph.edges)


def test_empty_graph() -> None:
    assert "no data" in str(Graph("empty", [], []).svg())


def test_unconnected_boxes() -> None:
    check(Graph("apart", [Node(str(index), f"box {index}") for index in range(9)], []))


def test_one_parent_with_two_roles_is_one_arrow() -> None:
    root = check(Graph("roles", [Node("a", "sft"), Node("b", "grpo")], [("a", "b", "init"), ("a", "b", "reference")]))
    assert [text.text for text in root.findall("text")] == ["init, reference"]
    assert root.attrib["aria-label"] == "roles: 2 boxes, 1 arrows. sft to grpo (init, reference)."


def test_too_wide_a_fan_scrolls_instead_of_shrinking() -> None:
    nodes = [Node(str(index), f"parent {index}") for index in range(9)] + [Node("end", "end")]
    graph = Graph("fan", nodes, [(str(index), "end", f"a long role [{index}]") for index in range(9)])
    root = check(graph)
    width = float(root.attrib["viewBox"].split()[2])
    assert width > WIDTH
    assert f"min-width:{width:.1f}".rstrip("0").rstrip(".") in root.attrib["style"]


def test_tooltip_and_marks() -> None:
    root = drawing(Graph("g", [Node("a", "gate", "+0.118", "good"), Node("b", "gate", "", "undecided")], []))
    assert [title.text for title in root.iter("title")] == ["gate · +0.118", "gate"]
    assert [text.text for text in root.iter("text")] == ["✓\N{NO-BREAK SPACE}gate", "+0.118", "?\N{NO-BREAK SPACE}gate"]


@pytest.mark.parametrize(
    ("nodes", "edges", "complaint"),
    [
        ([Node("a", ""), Node("a", "")], [], "node id 'a' is used twice"),
        ([Node("a", "")], [("a", "b", "")], "no node 'b'"),
        ([Node("a", ""), Node("b", "")], [("a", "b", ""), ("b", "a", "")], "cycle through 'a', 'b'"),
        ([Node("a", "")], [("a", "a", "")], "cycle through 'a'"),
    ],
)
def test_what_is_no_lineage_is_rejected(nodes: list[Node], edges: list[tuple[str, str, str]], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Graph("wrong", nodes, edges)
