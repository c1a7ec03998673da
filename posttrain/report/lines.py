"""Lines over a number: pass@k curves, training curves. Bands are intervals; a gap is a value that is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from markupsafe import Markup

from posttrain.report.numbers import finite, number, tick_labels, ticks, whole
from posttrain.report.svg import (
    TEXT,
    WIDTH,
    Chart,
    Scale,
    colour_class,
    dash,
    drawing,
    element,
    label,
    marker,
    nothing,
    separate,
    text_width,
    units,
)

_HEIGHT, _TOP, _BOTTOM = 240.0, 28.0, 42.0
_MARKED = 24  # a series with more points is a curve: it gets a marker here and there
_SPARSE = 10
_DRAWN = 400  # points a line; more cannot be seen at this width

Point = tuple[float, float]
Band = tuple[float, float, float]


@dataclass(frozen=True)
class Series:
    """One line: points (x, y) and, if known, the interval (x, low, high) around them. None or NaN makes a gap."""

    name: str
    points: Sequence[tuple[float, float | None]]
    band: Sequence[tuple[float, float | None, float | None]] | None = None


@dataclass(frozen=True)
class LineChart(Chart):
    """Lines with their bands, over a linear or doubling x. `y_range` is the least range shown, never a crop."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_scale: Literal["linear", "log2"] = "linear"
    y_range: tuple[float, float] | None = None

    def svg(self) -> Markup:
        """The drawing."""
        if not self._values:
            return nothing(self.title)
        return drawing(
            WIDTH,
            _HEIGHT,
            self._gist(),
            self._axes(),
            *(self._band(index) for index in range(len(self.series))),
            *(self._line(index) for index in range(len(self.series))),
            *self._end_labels(),
        )

    def legend(self) -> list[tuple[Markup, str]]:
        """A piece of each line, where there is more than one."""
        names = [(index, line.name) for index, line in enumerate(self.series)]
        return [(_swatch(index), name) for index, name in names] if len(names) > 1 else []

    def note(self) -> str:
        """How many points have no place on the drawing."""
        missing = sum(len(line.points) - len(_points(line, self._log2)) for line in self.series)
        return f"Points without a finite value, not drawn: {missing:,}." if missing else ""

    @property
    def _log2(self) -> bool:
        return self.x_scale == "log2"

    @cached_property
    def _values(self) -> list[Point]:
        return [point for line in self.series for point in _points(line, self._log2)]

    @cached_property
    def _y_ticks(self) -> list[float]:
        bands = [run for line in self.series for run in _bands(line, self._log2)]
        values = [y for _, y in self._values] + [edge for run in bands for _, *edges in run for edge in edges]
        values += self.y_range or ()
        return ticks(min(values), max(values))

    @cached_property
    def _x_ticks(self) -> list[float]:
        low, high = min(x for x, _ in self._values), max(x for x, _ in self._values)
        if not self._log2:
            inside = [tick for tick in ticks(low, high, 6) if low <= tick <= high]
            return inside if len(inside) > 1 else ticks(low, high, 6)
        first, last = math.floor(math.log2(low) + 1e-9), math.ceil(math.log2(high) - 1e-9)
        last += first == last
        stride = math.ceil((last - first + 1) / 40)
        return [2.0**power for power in range(first, last + 1, stride)]

    @cached_property
    def _x_texts(self) -> list[str]:
        return [number(whole(tick)) for tick in self._x_ticks] if self._log2 else tick_labels(self._x_ticks)

    @cached_property
    def _x(self) -> Scale:
        labels = max(text_width(text) for text in tick_labels(self._y_ticks))
        values = [x for x, _ in self._values] + self._x_ticks
        return Scale(min(values), max(values), labels + 10, WIDTH - self._right, self._log2)

    @cached_property
    def _y(self) -> Scale:
        return Scale(self._y_ticks[0], self._y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)

    @cached_property
    def _ends(self) -> list[tuple[int, Point]]:
        lasts = [(index, _points(line, self._log2)) for index, line in enumerate(self.series)]
        ends = [(index, points[-1]) for index, points in lasts if points]
        return ends if len(ends) <= 8 else []

    @property
    def _right(self) -> float:
        ends = [text_width(number(y)) + 14 for _, (_, y) in self._ends]
        return max([text_width(self._x_texts[-1]) / 2, 10.0, *ends])

    def _axes(self) -> Markup:
        x, y, base = self._x, self._y, _HEIGHT - _BOTTOM
        parts = [label(0, TEXT, self.y_label, "muted")]
        for tick, text in zip(self._y_ticks, tick_labels(self._y_ticks), strict=True):
            class_ = "axis" if tick == self._y_ticks[0] else "grid"
            parts.append(element("path", d=f"M{units(x.start)} {units(y(tick))}H{units(x.end)}", class_=class_))
            parts.append(label(x.start - 6, y(tick) + 4, text, "tick", "end"))
        texts = self._x_texts
        room = (x.end - x.start) / max(1, len(texts) - 1)
        stride = math.ceil((max(map(text_width, texts)) + 8) / room)
        for index, (tick, text) in enumerate(zip(self._x_ticks, texts, strict=True)):
            parts.append(element("path", d=f"M{units(x(tick))} {units(base)}v4", class_="axis"))
            if index % stride == 0:
                parts.append(label(x(tick), base + 17, text, "tick", "middle"))
        parts.append(label((x.start + x.end) / 2, _HEIGHT - 6, self.x_label, "muted", "middle"))
        return element("g", *parts)

    def _band(self, index: int) -> Markup:
        shapes = []
        for run in _bands(self.series[index], self._log2):
            upper = [f"{units(self._x(x))} {units(self._y(high))}" for x, _, high in run]
            lower = [f"{units(self._x(x))} {units(self._y(low))}" for x, low, _ in reversed(run)]
            alone = len(run) == 1
            path = f"M{'L'.join([*upper, *lower])}" + ("" if alone else "Z")
            shapes.append(element("path", d=path, class_="whisker" if alone else "band"))
        return element("g", *shapes, class_=colour_class(index))

    def _line(self, index: int) -> Markup:
        line, parts = self.series[index], []
        runs = _runs(line, self._log2)
        for run in runs:
            if len(run) > 1:
                path = "L".join(f"{units(self._x(x))} {units(self._y(y))}" for x, y in _thinned(run))
                class_ = "line" if len(run) <= _MARKED else "line dense"
                parts.append(element("path", d=f"M{path}", class_=class_, stroke_dasharray=dash(index)))
        points = [point for run in runs for point in run]
        stride = 1 if len(points) <= _MARKED else math.ceil(len(points) / _SPARSE)
        alone = [run[0] for run in runs if len(run) == 1]
        quiet = set(points[:-1]) - set(alone) if stride > 1 and len(self.series) == 1 else set()
        for x, y in dict.fromkeys([*points[::stride], *alone, *points[-1:]]):
            tooltip = f"{line.name}: {number(y)} at {self.x_label} {number(whole(x))}"
            parts.append(marker(index, self._x(x), self._y(y), tooltip, "mark hit" if (x, y) in quiet else "mark"))
        return element("g", *parts, class_=colour_class(index))

    def _end_labels(self) -> list[Markup]:
        ends = sorted(self._ends, key=lambda end: -end[1][1])
        wanted = [self._y(y) for _, (_, y) in ends]
        places = separate(wanted, [TEXT + 1] * (len(ends) - 1), _TOP, _HEIGHT - _BOTTOM)
        return [
            label(self._x(x) + 8, place + 4, number(y), f"end {colour_class(index)}")
            for (index, (x, y)), place in zip(ends, places, strict=True)
        ]

    def _gist(self) -> str:
        lines = []
        for line in self.series:
            points = _points(line, self._log2)
            if points:
                (first, start), (last, end) = points[0], points[-1]
                span = f"{number(start)} at {number(whole(first))} to {number(end)} at {number(whole(last))}"
                lines.append(f"{line.name} from {span}" if len(points) > 1 else f"{line.name} {span.split(' to ')[0]}")
        return f"{self.title}: {self.y_label} by {self.x_label}. {'; '.join(lines)}."


def _swatch(index: int) -> Markup:
    line = element("path", d="M1 6H27", class_="line", stroke_dasharray=dash(index))
    mark = marker(index, 14, 6)
    return element("svg", line, mark, viewBox="0 0 28 12", class_=f"swatch {colour_class(index)}", aria_hidden="true")


def _drawable(x: float | None, log2: bool) -> bool:
    return finite(x) and (x > 0 or not log2)


def _runs(line: Series, log2: bool) -> list[list[Point]]:
    """The line's unbroken pieces, in order of x."""
    runs: list[list[Point]] = [[]]
    for x, y in sorted((point for point in line.points if _drawable(point[0], log2)), key=lambda point: point[0]):
        if finite(y):
            runs[-1].append((float(x), float(y)))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _points(line: Series, log2: bool) -> list[Point]:
    return [point for run in _runs(line, log2) for point in run]


def _bands(line: Series, log2: bool) -> list[list[Band]]:
    """The band's unbroken pieces; it has a gap where the line has one."""
    runs: list[list[Band]] = [[]]
    gaps = [(x, None, None) for x, y in line.points if not finite(y)]
    edges = [edge for edge in [*line.band, *gaps] if _drawable(edge[0], log2)] if line.band else []
    for x, low, high in sorted(edges, key=lambda edge: edge[0]):
        if finite(low) and finite(high):
            runs[-1].append((float(x), float(low), float(high)))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _thinned(run: list[Point]) -> list[Point]:
    """The run with only the least and greatest of each bucket, so that no spike is lost."""
    if len(run) <= _DRAWN:
        return run
    size = math.ceil(len(run) / (_DRAWN // 2))
    kept: list[Point] = []
    for start in range(0, len(run), size):
        bucket = run[start : start + size]
        kept += sorted({min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])})
    return [run[0], *kept, run[-1]]
