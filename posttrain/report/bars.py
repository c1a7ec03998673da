"""Charts of rows: parts of a whole, and estimates with their intervals. Each row has its words above its drawing,
because at 480 px a column of labels would leave the drawing no room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from posttrain.report.numbers import finite, interval, number, tick_labels, ticks, whole
from posttrain.report.svg import (
    TEXT,
    WIDTH,
    Chart,
    Scale,
    Tone,
    colour_class,
    drawing,
    element,
    fit,
    label,
    nothing,
    text_width,
    units,
)

_BAR = 20.0
_ROW = 46.0
_HATCHES = ("", "/", "\\", "|", "-", "/\\")


@dataclass(frozen=True)
class Segment:
    """What one part of every bar means."""

    name: str
    tone: Tone | None = None


@dataclass(frozen=True)
class StackedBars(Chart):
    """A bar a row, cut into the same segments: rows of (label, one count a segment). Bars share one scale.

    Raises:
        ValueError: a row has more or fewer counts than there are segments.
    """

    title: str
    segments: Sequence[Segment]
    rows: Sequence[tuple[str, Sequence[float | None]]]

    def __post_init__(self) -> None:
        for name, counts in self.rows:
            if len(counts) != len(self.segments):
                raise ValueError(f"bar {name!r}: {len(counts)} counts for {len(self.segments)} segments; use 0 or None")

    def svg(self) -> Markup:
        """The drawing."""
        longest = max((sum(_counts(counts)) for _, counts in self.rows), default=0.0)
        if longest <= 0:
            return nothing(self.title)
        rows = [self._row(index, longest) for index in range(len(self.rows))]
        return drawing(WIDTH, _ROW * len(rows), self._gist(), *rows)

    def legend(self) -> list[tuple[Markup, str]]:
        """A piece of each segment."""
        return [(self._swatch(index), segment.name) for index, segment in enumerate(self.segments)]

    def _row(self, row: int, longest: float) -> Markup:
        name, counts = self.rows[row][0], _counts(self.rows[row][1])
        top, x = row * _ROW, 0.0
        parts, unlabelled = [], []
        for index, count in enumerate(counts):
            width, words = WIDTH * count / longest, f"{self.segments[index].name} {_count(count)}"
            if count > 0:
                parts.append(self._bar(index, x, top + 17, width, f"{name}: {words}"))
            if text_width(_count(count)) + 8 <= width:
                parts.append(label(x + width / 2, top + 31, _count(count), f"inside {self._class(index)}", "middle"))
            elif count > 0:
                unlabelled.append(words)
            x += width
        side = " · ".join([*unlabelled, f"n {_count(sum(counts))}"])
        room = WIDTH - text_width(side) - 12
        parts.append(label(0, top + TEXT, fit(name, max(room, WIDTH / 3)), "row", None))
        parts.append(label(WIDTH, top + TEXT, fit(side, WIDTH * 2 / 3 - 12), "muted", "end"))
        return element("g", element("title", name), *parts)

    def _bar(self, index: int, x: float, y: float, width: float, tooltip: str) -> Markup:
        rect = element("rect", x=x, y=y, width=max(width - 1, 0.6), height=_BAR, class_="bar")
        hatch = element("path", d=_hatch(_HATCHES[index % len(_HATCHES)], x, y, width - 1), class_="hatch")
        return element("g", element("title", tooltip), rect, hatch, class_=self._class(index))

    def _swatch(self, index: int) -> Markup:
        piece = self._bar(index, 0, 0, 29, self.segments[index].name)
        return element("svg", piece, viewBox="0 0 28 20", class_="swatch patch", aria_hidden="true")

    def _class(self, index: int) -> str:
        tone = self.segments[index].tone
        return f"tone-{tone}" if tone else colour_class(index)

    def _gist(self) -> str:
        rows = []
        for name, counts in self.rows:
            pairs = zip(self.segments, _counts(counts), strict=True)
            rows.append(f"{name}: {', '.join(f'{segment.name} {_count(count)}' for segment, count in pairs)}")
        return f"{self.title}. {'; '.join(rows)}."


@dataclass(frozen=True)
class Intervals(Chart):
    """A dot and a whisker a row: rows of (label, estimate, low, high). Hollow dots: the interval holds `reference`."""

    title: str
    rows: Sequence[tuple[str, float | None, float | None, float | None]]
    reference: float | None = 0.0

    def svg(self) -> Markup:
        """The drawing."""
        known = [float(value) for _, *values in self.rows for value in values if finite(value)]
        if not known:
            return nothing(self.title)
        known += [self.reference] if finite(self.reference) else []
        marks = ticks(min(known), max(known), 6)
        margins = [max(6.0, text_width(text) / 2) for text in tick_labels(marks)]
        x = Scale(marks[0], marks[-1], margins[0], WIDTH - margins[-1])
        height = 40.0 * len(self.rows)
        rows = [self._row(index, x) for index in range(len(self.rows))]
        return drawing(WIDTH, height + 22, self._gist(), self._axis(marks, x, height), *rows)

    def note(self) -> str:
        """How to read the dots."""
        return f"Hollow: the interval contains {number(whole(self.reference))}." if finite(self.reference) else ""

    def _axis(self, marks: list[float], x: Scale, height: float) -> Markup:
        parts = [element("path", d=f"M{units(x.start)} {units(height)}H{units(x.end)}", class_="axis")]
        for mark, text in zip(marks, tick_labels(marks), strict=True):
            parts.append(element("path", d=f"M{units(x(mark))} {units(height)}v4", class_="axis"))
            parts.append(label(x(mark), height + 17, text, "tick", "middle"))
        if finite(self.reference):
            path = f"M{units(x(self.reference))} 0V{units(height)}"
            parts.append(element("path", d=path, class_="reference", stroke_dasharray="3 3"))
        return element("g", *parts)

    def _row(self, index: int, x: Scale) -> Markup:
        name, estimate, low, high = self.rows[index]
        top, words = index * 40.0, interval(estimate, low, high)
        parts = [
            element("title", f"{name}: {words}"),
            label(0, top + TEXT, fit(name, WIDTH - text_width(words) - 14), "row halo"),
            label(WIDTH, top + TEXT, words, "value halo", "end"),
        ]
        y, unsure = top + 26, True
        if finite(low) and finite(high):
            left, right = x(low), x(high)
            ends = f"M{units(left)} {units(y - 4)}v8M{units(right)} {units(y - 4)}v8"
            parts.append(element("path", d=f"M{units(left)} {units(y)}H{units(right)}{ends}", class_="whisker"))
            unsure = finite(self.reference) and low <= self.reference <= high
        if finite(estimate):
            class_ = "dot hollow" if unsure else "dot"
            parts.append(element("circle", cx=x(estimate), cy=y, r=4.5, class_=class_))
        return element("g", *parts, class_="s0")

    def _gist(self) -> str:
        return f"{self.title}. " + "; ".join(f"{name}: {interval(*values)}" for name, *values in self.rows) + "."


def _counts(counts: Sequence[float | None]) -> list[float]:
    return [max(0.0, float(count)) if finite(count) else 0.0 for count in counts]


def _count(count: float) -> str:
    return number(whole(count))


def _hatch(strokes: str, x: float, y: float, width: float, step: float = 6.0) -> str:
    """A texture cut to the bar by arithmetic: a `pattern` or `clipPath` would need ids that are unique on the page."""
    pieces, right = [], x + width
    for stroke in strokes:
        start = x - _BAR if stroke in "/\\" else x + step / 2 if stroke == "|" else y + step / 2
        stop = y + _BAR if stroke == "-" else right
        for index in range(max(0, int((stop - start) / step) + 1)):
            at = start + index * step
            if stroke == "|" and at < right:
                pieces.append(f"M{units(at)} {units(y)}v{units(_BAR)}")
            elif stroke == "-" and at < y + _BAR:
                pieces.append(f"M{units(x)} {units(at)}H{units(right)}")
            elif stroke in "/\\":
                near, far = max(0.0, x - at), min(_BAR, right - at)
                if far > near:
                    rise = (y + _BAR - near, y + _BAR - far) if stroke == "/" else (y + near, y + far)
                    pieces.append(f"M{units(at + near)} {units(rise[0])}L{units(at + far)} {units(rise[1])}")
    return "".join(pieces) or "M0 0"
