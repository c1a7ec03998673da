"""The little that every chart shares: elements, text widths, scales, looks of series, room between labels."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from markupsafe import Markup, escape

WIDTH = 440.0  # user units; about the pixels a frame 480 px wide leaves, so that there a unit is a pixel
TEXT = 12.0
SMALL = 11.5

Tone = Literal["good", "bad", "neutral", "undecided", "accent"]

COLOUR_COUNT = 6
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 2 5 2")
_MARKERS = (
    "M-3.5 0A3.5 3.5 0 1 0 3.5 0A3.5 3.5 0 1 0-3.5 0Z",  # circle
    "M-3.2-3.2H3.2V3.2H-3.2Z",  # square
    "M0-4.4L4.2 3.2H-4.2Z",  # triangle
    "M0-4.6L4.6 0L0 4.6L-4.6 0Z",  # diamond
    "M0 4.4L4.2-3.2H-4.2Z",  # triangle, point down
)

_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_NARROW = frozenset("iljtfrI.,:;|'!()[]{}/\\ -")
_WIDE = frozenset("mwMWQOG@%—…→+±=<>\N{MINUS SIGN}\N{MULTIPLICATION SIGN}")


class Chart:
    """A figure on a page: a title, a drawing, perhaps a legend and a note."""

    kind: ClassVar[str] = "chart"
    title: str

    def svg(self) -> Markup:
        """The drawing, as wide as its container."""
        raise NotImplementedError

    def legend(self) -> list[tuple[Markup, str]]:
        """A swatch and a name for everything the drawing tells apart by look."""
        return []

    def note(self) -> str:
        """What the drawing leaves out."""
        return ""


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] onto [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log2: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log2:
            low, high, value = math.log2(low), math.log2(high), math.log2(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def clean(text: object) -> str:
    """The text without characters that no XML may hold (control characters, halves of surrogate pairs)."""
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", str(text))


def element(tag: str, *children: str | Markup, **attributes: object) -> Markup:
    """An escaped element; None attributes are left out, `class_` and `stroke_width` become what SVG calls them."""
    parts = [
        f' {name.strip("_").replace("_", "-")}="{escape(_attribute(value))}"'
        for name, value in attributes.items()
        if value is not None
    ]
    body = "".join(escape(clean(child)) if not isinstance(child, Markup) else child for child in children)
    return Markup(f"<{tag}{''.join(parts)}>{body}</{tag}>")


def drawing(width: float, height: float, gist: str, *children: Markup, style: str | None = None) -> Markup:
    """The outermost element, which says in words what it shows."""
    box = f"0 0 {units(width)} {units(height)}"
    return element("svg", *children, viewBox=box, role="img", aria_label=gist, style=style)


def label(x: float, y: float, text: str, class_: str = "", anchor: str | None = None, **more: object) -> Markup:
    """One line of text."""
    return element("text", text, x=x, y=y, class_=class_ or None, text_anchor=anchor, **more)


def nothing(gist: str) -> Markup:
    """What is drawn where there is nothing to draw."""
    frame = element("rect", x=0.5, y=0.5, width=WIDTH - 1, height=79, rx=4, class_="void")
    return drawing(WIDTH, 80, f"{gist}: no data", frame, label(WIDTH / 2, 44, "no data", "muted", "middle"))


def units(value: float) -> str:
    """A coordinate: a tenth of a pixel is enough, and the same on every machine."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def text_width(text: str, size: float = TEXT) -> float:
    """A cautious estimate of a line's width, since fonts differ (DejaVu, the widest about, is the measure)."""
    return size * sum(_character_width(character) for character in text)


def fit(text: str, width: float, size: float = TEXT) -> str:
    """The text, or as much of it as fits with an ellipsis."""
    text = clean(text)
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def colour_class(index: int) -> str:
    """The class that sets a series' colour."""
    return f"s{index % COLOUR_COUNT}"


def dash(index: int) -> str | None:
    """A series' dash pattern; with the colour it stays distinct for 42 series."""
    return _DASHES[index % len(_DASHES)] or None


def marker(index: int, x: float, y: float, tooltip: str = "", class_: str = "mark") -> Markup:
    """A series' marker at a point."""
    title = [element("title", tooltip)] if tooltip else []
    place = f"translate({units(x)} {units(y)})"
    return element("path", *title, d=_MARKERS[index % len(_MARKERS)], transform=place, class_=class_)


def separate(
    wanted: Sequence[float],
    gaps: Sequence[float],
    low: float,
    high: float,
    weights: Sequence[float] | None = None,
) -> list[float]:
    """The places nearest to the wanted ones (least squares) that keep their order and at least `gaps` between them.

    Pool adjacent violators, after subtracting the gaps. Where `low`..`high` is too short, the places run over `high`.
    """
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    pools: list[tuple[float, float, int]] = []  # mean, weight, members
    for index, place in enumerate(wanted):
        mean, weight, members = place - offsets[index], weights[index] if weights else 1.0, 1
        while pools and pools[-1][0] > mean:
            before, before_weight, before_members = pools.pop()
            mean = (before * before_weight + mean * weight) / (before_weight + weight)
            weight, members = weight + before_weight, members + before_members
        pools.append((mean, weight, members))
    last = max(low, high - offsets[-1])
    level = [min(max(mean, low), last) for mean, _, members in pools for _ in range(members)]
    return [place + offset for place, offset in zip(level, offsets, strict=False)]


def _attribute(value: object) -> str:
    return units(value) if isinstance(value, int | float) else clean(value)


def _character_width(character: str) -> float:
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    if character in _NARROW:
        return 0.4
    if character in _WIDE:
        return 0.95
    return 0.72 if character.isupper() else 0.64
