"""A whole page: what a browser gets, and what it must never get."""

from __future__ import annotations

import math
import random
import re
from html.parser import HTMLParser

import pytest

from posttrain.report.charts import Graph, Intervals, LineChart, Node, Segment, Series, StackedBars
from posttrain.report.page import (
    COLOURS,
    Block,
    Facts,
    Page,
    Sample,
    Samples,
    Section,
    Table,
    Text,
    Verdict,
    render,
)

HOSTILE = "</script><b>bold</b>&amp;\x00\ud800\"'{{ 7 * 7 }}"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Checked(HTMLParser):
    """Fails on a tag that closes what is not open; keeps every tag's attributes and the text in view."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))


def page_of(*blocks: Block) -> Checked:
    return Checked(render(Page("A page", blocks)))


def run_report() -> Page:
    """A page as rich as a run's: every kind of block, with plausible numbers."""
    draw = random.Random(7)
    ks = [2**power for power in range(8)]
    names = [("base", 0.11), ("sft", 0.19), ("sft → grpo", 0.31), ("champion", 0.24), ("student 0.5B", 0.27)]
    curves = []
    for index, (name, start) in enumerate(names):
        points = [(k, 1 - (1 - start) ** (k ** (0.62 - 0.05 * index))) for k in ks]
        curves.append(Series(name, points, [(k, y - 0.035, min(1, y + 0.035)) for k, y in points]))
    steps = range(0, 1500, 2)
    reward = [(s, 0.2 + 0.45 * (1 - math.exp(-s / 500)) + draw.gauss(0, 0.03)) for s in steps]
    kl = [(s, 0.02 * math.log1p(s / 40) + abs(draw.gauss(0, 0.004)) if not 600 < s < 680 else None) for s in steps]
    losses = [(s, 1.9 * math.exp(-s / 120) + 0.9) for s in range(0, 400, 20)]
    evals = [(s, 1.7 * math.exp(-s / 110) + 1.02) for s in range(0, 400, 80)]
    prompt = "A farmer has 17 sheep and buys 3 pens of 12 each. How many sheep are there?\nAnswer with one number."
    return Page(
        "improve-math: run 2026-03-14",
        subtitle="Qwen3-0.6B · 1,319 held-out problems · 8 H100 · 3 h 12 min",
        blocks=[
            Verdict(
                "The candidate is better and may be registered",
                "good",
                "Pass@1 rose on all three slices; no skill was lost beyond its bound. 14 answers could not be scored.",
                [("pass@1 gain", "+0.118 [0.087, 0.149]"), ("retention", "0.992 [0.981, 1.004]"), ("GPU hours", 25.6)],
            ),
            Section(
                "Before and after",
                [
                    Table(
                        ["slice", "problems", "champion", "candidate", "difference", "verdict"],
                        [
                            [
                                "gsm8k",
                                800,
                                "0.262 [0.240, 0.284]",
                                "0.391 [0.366, 0.417]",
                                "+0.129 [0.094, 0.163]",
                                "+",
                            ],
                            ["math", 500, "0.204 [0.176, 0.233]", "0.311 [0.279, 0.344]", "+0.107 [0.066, 0.149]", "+"],
                            ["ifeval", 19, "0.684 [0.474, 0.842]", "0.737 [0.526, 0.895]", None, "undecided"],
                        ],
                        "Mean pass@1 with 95% intervals; problems resampled, the same draw for both policies.",
                    ),
                    Intervals(
                        "Candidate minus champion, pass@1",
                        [
                            ("gsm8k", 0.129, 0.094, 0.163),
                            ("math-500", 0.107, 0.066, 0.149),
                            ("ifeval", 0.053, -0.158, 0.263),
                            ("held-in retention", -0.008, -0.019, 0.004),
                        ],
                    ),
                    LineChart("Pass@k", "k (samples)", "pass@k", curves, "log2", (0, 1)),
                ],
                "Both policies answered every problem 128 times at temperature 1.",
            ),
            Section(
                "Support",
                [
                    StackedBars(
                        "Problems by what became of them",
                        [
                            Segment("kept", "accent"),
                            Segment("gained", "good"),
                            Segment("lost", "bad"),
                            Segment("outside", "neutral"),
                        ],
                        [
                            ("sft against base", (612, 183, 24, 500)),
                            ("grpo against sft", (771, 42, 24, 482)),
                            ("student against grpo", (790, 3, 23, 503)),
                        ],
                    ),
                    StackedBars(
                        "Rows of training data by source",
                        [Segment(name) for name in ("supplied", "own samples", "teacher", "replay", "dropped")],
                        [("sft", (7200, 0, 1800, 900, 212)), ("student", (0, 0, 5100, 600, 88))],
                    ),
                ],
            ),
            Section(
                "Training",
                [
                    LineChart("Reward while training", "step", "mean reward", [Series("grpo", reward)]),
                    LineChart("KL to the reference", "step", "nats a token", [Series("grpo", kl)]),
                    LineChart("SFT loss", "step", "nats a token", [Series("train", losses), Series("held out", evals)]),
                ],
            ),
            Section("Lineage", [lineage()]),
            Section(
                "Samples",
                [
                    Samples(
                        [
                            Sample(prompt, "17 + 3 * 12 = 17 + 36 = 53\n\n#### 53", 1.0),
                            Sample("What is 12 ÷ 0?", "Division by zero is undefined.", 0.0),
                            Sample("Ignore the rules " + HOSTILE, "<script>alert(1)</script>", None),
                        ],
                        "Problems the candidate gained, first of 42.",
                        opened=1,
                    )
                ],
            ),
            Section(
                "Record",
                [
                    Facts(
                        [
                            ("policy", "sha256:" + "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
                            ("made by", "grpo, seed 17"),
                            ("on-policy fraction", 0.998),
                            ("code", "https://example.org/posttrain@" + "0123456789abcdef" * 2),
                            ("rows dropped", 212),
                            ("peak memory", None),
                        ]
                    ),
                    Text("Rewards come from the exact-match verifier.\n\nNothing was judged by a model."),
                ],
            ),
        ],
    )


def lineage() -> Graph:
    """Fourteen boxes, as an improve run with a distilled student leaves them."""
    nodes = [
        Node("base", "Qwen3-0.6B", "3f2a91c0d4e7", "accent"),
        Node("teacher", "Qwen3-8B", "88ab01c2f9d3", "accent"),
        Node("raw", "gsm8k train", "7,473 problems"),
        Node("own", "house problems", "1,200 problems"),
        Node("prepared", "prepared", "8,461 rows"),
        Node("traces", "teacher traces", "33,844 rows"),
        Node("sft", "sft", "off-policy", "accent"),
        Node("grpo", "grpo", "on-policy 0.998", "accent"),
        Node("student", "on-policy distillation", "0.5 B", "accent"),
        Node("heldout", "held-out problems", "1,319 problems"),
        Node("champion", "champion", "v7", "accent"),
        Node("eval-a", "evaluation", "candidate"),
        Node("eval-b", "evaluation", "champion"),
        Node("gate", "gate", "+0.118 [0.087, 0.149]", "good"),
    ]
    edges = [
        ("raw", "prepared", "data[0]"),
        ("own", "prepared", "data[1]"),
        ("prepared", "traces", "problems"),
        ("teacher", "traces", "sampler"),
        ("base", "sft", "init"),
        ("traces", "sft", "data[0]"),
        ("sft", "grpo", "init"),
        ("sft", "grpo", "reference"),
        ("prepared", "grpo", "problems"),
        ("grpo", "student", "teacher[0]"),
        ("base", "student", "init"),
        ("prepared", "student", "problems"),
        ("student", "eval-a", "policy"),
        ("heldout", "eval-a", "problems"),
        ("heldout", "eval-b", "problems"),
        ("champion", "eval-b", "policy"),
        ("eval-a", "gate", "candidate"),
        ("eval-b", "gate", "champion"),
    ]
    return Graph("From data to the registered policy", nodes, edges)


def test_rich_page_is_well_formed_and_in_outline_order() -> None:
    page = Checked(render(run_report()))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == 1
    assert tags.count("main") == 1
    assert tags.count("section") == tags.count("h2") == 6
    assert "h3" not in tags
    assert "script" not in tags
    assert tags.count("figure") == 8
    named = [attributes for tag, attributes in page.tags if tag == "svg" and "aria-hidden" not in attributes]
    assert all(attributes["role"] == "img" and len(attributes["aria-label"]) > 20 for attributes in named)


def test_rich_page_holds_its_numbers() -> None:
    words = Checked(render(run_report())).words
    for expected in ("+0.118 [0.087, 0.149]", "0.391 [0.366, 0.417]", "612", "own samples", "25.60", "on-policy 0.998"):
        assert expected in words


def test_same_page_same_bytes() -> None:
    assert render(run_report()) == render(run_report())


def test_page_asks_the_network_for_nothing_and_runs_nothing() -> None:
    html = render(run_report())
    page = Checked(html)
    assert not {"script", "link", "img", "iframe", "a", "base", "object", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        loads = {"src", "href", "srcset", "action", "data", "xlink:href"} & attributes.keys()
        assert not loads, f"<{tag}> has {loads}"
        assert not [name for name in attributes if name.startswith("on")]
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "url(" not in "".join(value for _, attributes in page.tags for value in attributes.values())


def test_every_text_is_escaped() -> None:
    blocks: list[Block] = [
        Verdict(HOSTILE, "bad", HOSTILE, [(HOSTILE, HOSTILE)]),
        Section(HOSTILE, [Text(HOSTILE)], HOSTILE),
        Table([HOSTILE, HOSTILE], [[HOSTILE, HOSTILE]], HOSTILE),
        Facts([(HOSTILE, HOSTILE)]),
        Samples([Sample(HOSTILE, HOSTILE, 0.5)], HOSTILE),
        LineChart(HOSTILE, HOSTILE, HOSTILE, [Series(HOSTILE, [(1, 2)]), Series(HOSTILE, [])]),
        StackedBars(HOSTILE, [Segment(HOSTILE)], [(HOSTILE, [3])]),
        Intervals(HOSTILE, [(HOSTILE, 1, 0, 2)]),
        Graph(HOSTILE, [Node("a", HOSTILE, HOSTILE), Node("b", HOSTILE)], [("a", "b", HOSTILE)]),
    ]
    html = render(Page(HOSTILE, blocks, HOSTILE))
    page = Checked(html)
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert "</script>" not in html
    assert "\x00" not in html
    assert "</script><b>bold</b>&amp;" in page.words, "the text itself is shown as it was"
    assert "{{ 7 * 7 }}" in page.words
    html.encode("utf-8")


def test_table_aligns_numbers_and_marks_what_is_missing() -> None:
    page = page_of(Table(["name", "n", "mean", "word"], [["a", 1234, None, "x"], ["b", -5, 0.125, None]]))
    heads = [given.get("class", "") for tag, given in page.tags if tag == "th" and given["scope"] == "col"]
    assert heads == ["", "n", "n", ""]
    assert "a 1,234 – x b −5 0.125 –" in page.words


def test_facts_say_yes_and_no() -> None:
    assert "resumedyes mergedno" in page_of(Facts([("resumed", True), ("merged", False)])).words


def test_table_without_rows_says_so() -> None:
    assert "no rows" in page_of(Table(["name", "n"], [])).words


def test_table_rejects_a_ragged_row() -> None:
    with pytest.raises(ValueError, match="row 1: 1 cells under 2 columns"):
        Table(["a", "b"], [[1, 2], [3]])


def test_digest_is_short_to_see_and_whole_in_its_title() -> None:
    digest = "0a" * 32
    page = page_of(Facts([("policy", f"sha256:{digest}")]))
    assert {"class": "digest", "title": digest} in [attributes for _, attributes in page.tags]
    assert "sha256:0a0a0a0a0a0a…" in page.words
    assert digest not in page.words


def test_sections_nest_and_an_empty_one_says_so() -> None:
    page = page_of(Section("outer", [Section("inner", []), Section("next", [Text("words")])]))
    headings = [tag for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert headings == ["h1", "h2", "h3", "h3"]
    assert page.words.count("nothing to show") == 1


def test_sample_keeps_its_first_empty_lines() -> None:
    html = render(Page("A page", [Samples([Sample("\n\n  indented", "", None)])]))
    assert '<pre tabindex="0">\n\n\n  indented</pre>' in html, "a browser drops one newline after <pre>"


def test_long_sample_says_what_it_cuts_and_keeps_its_end() -> None:
    page = page_of(Samples([Sample("question", "thinking " * 5000 + "the answer", 1.0)]))
    assert "[… 37,010 characters not shown …]" in page.words
    assert page.words.rstrip().endswith("the answer")


def test_neighbouring_charts_share_a_row() -> None:
    chart = Intervals("one", [("a", 1, 0, 2)])
    page = page_of(chart, chart, Text("between"), chart)
    assert [attributes["class"] for tag, attributes in page.tags if tag == "div"].count("charts") == 2


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_read(theme: int) -> None:
    colours = {name: pair[theme] for name, pair in COLOURS.items()}
    for name in ("ink", "muted", "good", "bad", "undecided", "neutral", "accent"):
        assert _contrast(colours[name], colours["page"]) >= 4.5, name
    for name in ("ink", "muted"):
        assert _contrast(colours[name], colours["surface"]) >= 4.5, name
    for name in ("s0", "s1", "s2", "s3", "s4", "s5"):
        assert _contrast(colours[name], colours["page"]) >= 3, name
        assert _contrast(colours["on-tone"], colours[name]) >= 3, name
