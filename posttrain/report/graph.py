"""A lineage: boxes joined by arrows, from top to bottom."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup

from posttrain.report.layout import Layout, Place, Route, arrange
from posttrain.report.svg import (
    SMALL,
    WIDTH,
    Chart,
    Tone,
    clean,
    drawing,
    element,
    fit,
    label,
    nothing,
    text_width,
    units,
)

_TEXT_ROOM = 104.0  # three boxes and a few passing edges fit a row
_TEXT_MOST = 150.0  # for what would not fit otherwise; then only two boxes do
_PADDING = 8.0
_LINE = 15.0
_MARKS = {"good": "✓\N{NO-BREAK SPACE}", "bad": "✗\N{NO-BREAK SPACE}", "undecided": "?\N{NO-BREAK SPACE}"}
_WORD = re.compile("[^ _/.:-]+[ _/.:-]*|[ _/.:-]+")


@dataclass(frozen=True)
class Node:
    """A box. The tone is drawn in its border and, where it judges, as a mark before the label."""

    id: str
    label: str
    sublabel: str = ""
    tone: Tone = "neutral"


@dataclass(frozen=True)
class Graph(Chart):
    """A directed acyclic graph; edges are (from, to, label). It grows downwards and keeps to 480 px if it can.

    Raises:
        ValueError: an id is used twice or unknown, or the edges make a cycle.
    """

    title: str
    nodes: Sequence[Node]
    edges: Sequence[tuple[str, str, str]]

    def __post_init__(self) -> None:
        ids = [node.id for node in self.nodes]
        if twice := sorted({id_ for id_ in ids if ids.count(id_) > 1}):
            raise ValueError(f"graph {self.title!r}: node id {twice[0]!r} is used twice; make ids unique")
        for start, end, _ in self.edges:
            if unknown := [id_ for id_ in (start, end) if id_ not in ids]:
                raise ValueError(f"graph {self.title!r}: edge {start!r} to {end!r}: no node {unknown[0]!r}; add it")
        _ = self._layout

    def svg(self) -> Markup:
        """The drawing."""
        if not self.nodes:
            return nothing(self.title)
        layout, tops = self._layout, self._tops
        # A graph wider than the frame scrolls in its box rather than shrink until nobody can read it.
        style = f"max-width:{units(layout.width * 1.3)}px"
        style += f";min-width:{units(layout.width)}px" if layout.width > WIDTH else ""
        edges = [_edge(route, layout, tops) for route in layout.routes]
        labelled = {id(route.pieces[-2]): route for route in layout.routes if route.label}
        texts = [_edge_label(route, tops) for route in labelled.values()]
        boxes = [self._box(node, layout.boxes[node.id], tops) for node in self.nodes]
        return drawing(layout.width, tops[-1], self._gist(), *edges, *texts, *boxes, style=style)

    @cached_property
    def _joined(self) -> dict[tuple[str, str], str]:
        """One edge for each pair, since one parent often has two roles (init and reference)."""
        joined: dict[tuple[str, str], list[str]] = {}
        for start, end, text in self.edges:
            joined.setdefault((start, end), []).append(clean(text))
        return {pair: ", ".join(dict.fromkeys(text for text in texts if text)) for pair, texts in joined.items()}

    @cached_property
    def _layout(self) -> Layout:
        sizes = {node.id: _size(node) for node in self.nodes}
        edges = {
            pair: (fit(text, 150, SMALL), text_width(fit(text, 150, SMALL), SMALL))
            for pair, text in self._joined.items()
        }
        return arrange(sizes, edges, WIDTH)

    @cached_property
    def _tops(self) -> list[float]:
        """Where each row begins, and where the last one ends."""
        layout = self._layout
        labelled = {route.pieces[-2].row for route in layout.routes if route.label}
        tops, y = [], 1.0
        for index, row in enumerate(layout.rows):
            tops.append(y)
            if index % 2 == 0:
                y += max((place.height for place in row), default=0.0) + 13
            else:
                y += 29 if index in labelled else 14
        return [*tops, y - 12]

    def _box(self, node: Node, place: Place, tops: list[float]) -> Markup:
        left, top = place.x - place.width / 2, tops[place.row]
        rect = element("rect", x=left, y=top, width=place.width, height=place.height, rx=5, class_="box")
        full = " · ".join(text for text in (node.label, node.sublabel) if text)
        parts = [element("title", full), rect]
        y = top + 17
        for line in _lines(node):
            parts.append(label(place.x, y, line, "name", "middle"))
            y += _LINE
        if node.sublabel:
            parts.append(label(place.x, y - 1, fit(node.sublabel, _TEXT_MOST, SMALL), "small", "middle"))
        return element("g", *parts, class_=f"node tone-{node.tone}")

    def _gist(self) -> str:
        names = {node.id: node.label for node in self.nodes}
        edges = [f"{names[a]} to {names[b]}{f' ({text})' if text else ''}" for (a, b), text in self._joined.items()]
        return f"{self.title}: {len(self.nodes)} boxes, {len(edges)} arrows. {'; '.join(edges)}."


def _lines(node: Node) -> list[str]:
    """The label on at most two lines."""
    text = _MARKS.get(node.tone, "") + " ".join(clean(node.label).split())
    for room in (_TEXT_ROOM, _TEXT_MOST):
        first, rest = _wrap(text, room)
        if first and text_width(rest) <= room:
            break
    lines = [fit(first, _TEXT_MOST), fit(rest, _TEXT_MOST)] if first else [fit(rest, _TEXT_MOST)]
    return [line for line in lines if line] or [""]


def _wrap(text: str, room: float) -> tuple[str, str]:
    """As many whole words (or parts of a name) as fit, and the rest."""
    words, first = _WORD.findall(text), ""
    while words and text_width((first + words[0]).rstrip()) <= room:
        first += words.pop(0)
    return first.rstrip(), "".join(words)


def _size(node: Node) -> tuple[float, float]:
    lines = _lines(node)
    widths = [text_width(line) for line in lines] + [text_width(fit(node.sublabel, _TEXT_MOST, SMALL), SMALL)]
    height = 12 + _LINE * (len(lines) + bool(node.sublabel)) + 1
    return max(56.0, max(widths) + 2 * _PADDING), height


def _edge(route: Route, layout: Layout, tops: list[float]) -> Markup:
    start, end = route.pieces[0], route.pieces[-1]
    path = [f"M{units(route.leaves_at)} {units(tops[start.row] + start.height)}V{units(_bottom(start.row, tops))}"]
    x, y = route.leaves_at, _bottom(start.row, tops)
    for piece in route.pieces[1:-1]:
        path.append(_curve(x, y, piece.x, tops[piece.row]))
        x, y = piece.x, _bottom(piece.row, tops)
        path.append(f"V{units(y)}")
    tip = tops[end.row]
    path.append(_curve(x, y, route.enters_at, tip - 5))
    head = f"M{units(route.enters_at)} {units(tip)}l-3.5-7h7z"
    return element("g", element("path", d="".join(path), class_="edge"), element("path", d=head, class_="head"))


def _curve(x: float, y: float, to_x: float, to_y: float) -> str:
    if abs(x - to_x) < 0.5:
        return f"L{units(to_x)} {units(to_y)}"
    middle = units((y + to_y) / 2)
    return f"C{units(x)} {middle} {units(to_x)} {middle} {units(to_x)} {units(to_y)}"


def _bottom(row: int, tops: list[float]) -> float:
    """Where the row's own height ends and the curves to the next one begin."""
    return tops[row + 1] - 13


def _edge_label(route: Route, tops: list[float]) -> Markup:
    piece = route.pieces[-2]
    return label(piece.x, tops[piece.row] + 12, route.label, "small halo", "middle")
