"""A page: typed blocks in, one self-contained HTML string out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import ClassVar, Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from posttrain.report.numbers import number
from posttrain.report.svg import Chart, clean

Cell = str | int | float | None
Tone = Literal["good", "bad", "neutral", "undecided"]

# Light and dark. Series colours are Okabe and Ito's, moved until each has a contrast of 3 with the page; text has 4.5.
COLOURS: dict[str, tuple[str, str]] = {
    "page": ("#ffffff", "#15181d"),
    "surface": ("#f5f6f8", "#1e232a"),
    "ink": ("#1b2027", "#e4e7ec"),
    "muted": ("#5a636f", "#a3acb8"),
    "rule": ("#dde1e7", "#353c46"),
    "good": ("#00724f", "#3ecb9c"),
    "bad": ("#b23c00", "#ff9a66"),
    "undecided": ("#7a5b00", "#e3be4f"),
    "neutral": ("#5a636f", "#a3acb8"),
    "accent": ("#0064a4", "#66b8f0"),
    "on-tone": ("#ffffff", "#15181d"),
    "s0": ("#0072b2", "#5cb3ea"),
    "s1": ("#c9560a", "#f29355"),
    "s2": ("#008060", "#35c79d"),
    "s3": ("#a84f82", "#e59cc6"),
    "s4": ("#8a6a00", "#dfc04c"),
    "s5": ("#4d5563", "#bcc4cf"),
}

_LONGEST = 8000  # characters of a sample shown; the rest is cut from the middle, since answers come last
_DIGEST = re.compile(r"\b[0-9a-f]{32,128}\b")
_ENDS = re.compile(r"\[[^\[\]]{1,40}\]")
_NUMERIC = re.compile(r"[\s\d.,+\-−–±×%\[\]()/e∞]*\d[\s\d.,+\-−–±×%\[\]()/e∞]*")


@dataclass(frozen=True)
class Verdict:
    """What the page concludes, with the two or three numbers it rests on as (name, value)."""

    kind: ClassVar[str] = "verdict"
    text: str
    tone: Tone
    detail: str = ""
    numbers: Sequence[tuple[str, Cell]] = ()


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by empty lines."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Facts:
    """Names and values. A long hexadecimal digest is shortened, and in full in its tooltip."""

    kind: ClassVar[str] = "facts"
    pairs: Sequence[tuple[str, Cell]]


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first column names the row. None is a dash.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"table row {index}: {len(row)} cells under {len(self.columns)} columns; use None")

    def holds_numbers(self, column: int) -> bool:
        """Whether the column's head belongs on the right, above its numbers."""
        cells = [row[column] for row in self.rows if row[column] is not None]
        return column > 0 and bool(cells) and all(map(_is_numeric, cells))


class Sample(NamedTuple):
    """A prompt, what a policy said, and the score if there is one."""

    prompt: str
    completion: str
    score: float | None = None


@dataclass(frozen=True)
class Samples:
    """Examples, closed until they are clicked; the first `opened` are open."""

    kind: ClassVar[str] = "samples"
    samples: Sequence[Sample]
    caption: str = ""
    opened: int = 0


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; sections nest."""

    kind: ClassVar[str] = "section"
    title: str
    blocks: Sequence[Block]
    note: str = ""


Block = Verdict | Section | Table | Facts | Text | Samples | Chart


@dataclass(frozen=True)
class Page:
    """A page. Put the verdict first: the KFP UI shows about 600 px of it."""

    title: str
    blocks: Sequence[Block]
    subtitle: str = ""


def render(page: Page) -> str:
    """The page as one HTML document that needs nothing else; the same page gives the same bytes."""
    return _template().render(page=page, colours=COLOURS)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("posttrain", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"runs": _runs, "cell": _cell, "value": _value, "shorten": _shorten, "paragraphs": _paragraphs}
    environment.filters |= {**filters, "clean": clean, "first_line": _first_line}
    environment.tests["numeric"] = _is_numeric
    return environment.get_template("page.html.j2")


def _runs(blocks: Sequence[Block]) -> list[tuple[bool, list[Block]]]:
    """Neighbouring charts together, because they share a row where there is room."""
    return [(charts, list(run)) for charts, run in groupby(blocks, key=lambda block: isinstance(block, Chart))]


def _is_numeric(cell: Cell) -> bool:
    return not isinstance(cell, str) or _NUMERIC.fullmatch(cell) is not None


def _cell(cell: Cell) -> str:
    """The cell's words; the two ends of an interval stay on one line."""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if not isinstance(cell, str):
        return number(cell)
    return _ENDS.sub(lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), clean(cell))


def _value(cell: Cell) -> Markup:
    """A fact's value with its digests shortened."""
    text = str(escape(_cell(cell)))
    short = r'<span class="digest" title="{0}">{1}…</span>'
    return Markup(_DIGEST.sub(lambda match: short.format(match[0], match[0][:12]), text))


def _shorten(text: str) -> str:
    text = clean(text)
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n\n[… {len(text) - 2 * half:,} characters not shown …]\n\n{text[-half:]}"


def _first_line(text: str) -> str:
    return next((line.strip() for line in clean(text).splitlines() if line.strip()), "")[:160]


def _paragraphs(text: str) -> list[str]:
    return [paragraph.strip() for paragraph in re.split(r"\n\s*\n", _cell(text)) if paragraph.strip()]
