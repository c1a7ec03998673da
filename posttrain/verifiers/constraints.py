"""The constraints that `instructions` checks, as a table, and the names that IFEval (2311.07911) has for them.

Every check looks at the text once: a completion must not be able to make a check run for ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

Parameters = Mapping[str, Any]

BOUNDS = ("at_least", "at_most", "exactly")
RELATIONS = {"at least": False, "less than": True}  # IFEval's


class Type(NamedTuple):
    """What a parameter must be."""

    words: str
    holds: Callable[[Any], bool]

    def complaint(self, value: Any) -> str:
        """What it must be, if it is not."""
        return "" if self.holds(value) else self.words


def is_count(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


TEXT = Type("non-empty text", lambda value: isinstance(value, str) and bool(value.strip()))
TEXTS = Type(
    "a list of non-empty texts", lambda value: isinstance(value, list) and value != [] and all(map(TEXT.holds, value))
)
LETTER = Type("one character", lambda value: isinstance(value, str) and len(value) == 1)
PLACE = Type("a number from 1", lambda value: is_count(value, 1))
COUNT = Type("a number from 0", is_count)
RELATION = Type("'at least' or 'less than'", lambda value: value in RELATIONS)


@dataclass(frozen=True)
class Constraint:
    """`check` gives how many there are (then it is compared with the bounds) or whether the constraint is followed.

    It is handed the text and the parameters, among them `prompt`.
    """

    what: str
    check: Callable[[str, Parameters], int]
    counts: bool = False
    needs: Mapping[str, Type] = field(default_factory=dict)
    takes: Mapping[str, Type] = field(default_factory=dict)

    def holds(self, text: str, given: Parameters) -> bool:
        found = self.check(text, given)
        if not self.counts:
            return bool(found)
        if "exactly" in given:
            return found == given["exactly"]
        return given.get("at_least", 0) <= found <= given.get("at_most", found)


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores."""
    return re.findall(r"\w+", text)


def sentences(text: str) -> int:
    """Parts that end at `.`, `?` or `!` before white space; an abbreviation ends one, too."""
    return sum(bool(words(part)) for part in re.split(r"(?<=[.!?])[\"')\]]?\s+", text))


def paragraphs(text: str, separator: str | None = None) -> list[str]:
    """Parts between blank lines, or between separators; none if nothing stands between two separators (as IFEval).

    Nothing before the first separator or after the last is no part.
    """
    parts = [part.strip() for part in (text.split(separator) if separator else re.split(r"\n[ \t]*\n", text))]
    if separator and not all(parts[1:-1]):
        return []
    return [part for part in parts if part]


def bullets(text: str) -> int:
    """Lines that begin with `- `, or with one asterisk."""
    lines = [line.strip() for line in text.splitlines()]
    return sum(line.startswith("-") or bool(re.match(r"\*[^*]", line)) for line in lines)


def sections(text: str, given: Parameters) -> int:
    """How often the marker stands before a number, as in `SECTION 1`."""
    return len(re.findall(re.escape(given["marker"]) + r"\s?\d", text))


def highlights(text: str) -> int:
    """Stretches of a line `*between*` or `**between**` asterisks."""
    single = re.findall(r"(?<!\*)\*([^\n*]+)\*(?!\*)", text)
    return sum(bool(one.strip()) for one in single + re.findall(r"\*\*([^\n*]+)\*\*", text))


def is_json(text: str) -> bool:
    """The whole text, within a Markdown fence or not."""
    inner = re.sub(r"\A```\w*|```\Z", "", text.strip())
    try:
        json.loads(inner)
    except (ValueError, RecursionError):
        return False
    return True


def has_title(text: str) -> bool:
    """A line holds `<<a title>>`."""
    inner = (line.partition("<<")[2].rpartition(">>")[0] for line in text.splitlines())
    return any(one.strip("<> \t") for one in inner)


def has_postscript(text: str, given: Parameters) -> bool:
    """The marker, spaces after its full stops aside."""
    marker = given.get("marker", "P.S.").casefold().strip()
    return marker.replace(" ", "") in re.sub(r"(?<=\.) ", "", text.casefold())


def two_responses(text: str, _: Parameters) -> bool:
    """Two different texts with six asterisks between them."""
    parts = paragraphs(text, "******")
    return len(parts) == 2 and parts[0] != parts[1]


def first_word(text: str) -> str:
    """Up to white space or punctuation, quotation marks before it aside: of "self-help" all."""
    return re.match(r"[\s'\"]*([^\s.,?!'\"]*)", text.casefold())[1]  # type: ignore[index]


def paragraph_starts(text: str, given: Parameters) -> bool:
    parts = paragraphs(text)
    if len(parts) < given["place"] or len(parts) != given.get("paragraphs", len(parts)):
        return False
    return first_word(parts[given["place"] - 1]) == first_word(given["word"])


def whole_word(word: str, text: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(word.casefold())}(?!\w)", text.casefold()))


def ends_with(text: str, given: Parameters) -> bool:
    return text.strip().strip('"').casefold().endswith(given["text"].strip().casefold())


def begins_with(text: str, beginning: str) -> bool:
    return text.strip().casefold().startswith(beginning.strip().casefold())


def quoted(text: str) -> bool:
    stripped = text.strip()
    return len(stripped) > 1 and stripped[0] == stripped[-1] == '"'


def occurrences(keyword: str, text: str) -> int:
    return text.casefold().count(keyword.casefold())


def any_of(options: list[str], text: str) -> bool:
    return any(option in text for option in options)


def none_of(keywords: list[str], text: str) -> bool:
    return not any(whole_word(keyword, text) for keyword in keywords)


def all_of(keywords: list[str], text: str) -> bool:
    return all(occurrences(keyword, text) for keyword in keywords)


C, N = Constraint, partial(Constraint, counts=True)
CONSTRAINTS: dict[str, Constraint] = {
    "word_count": N("words", lambda text, p: len(words(text))),
    "sentence_count": N("sentences", lambda text, p: sentences(text)),
    "paragraph_count": N(
        "paragraphs", lambda text, p: len(paragraphs(text, p.get("separator"))), takes={"separator": TEXT}
    ),
    "bullet_count": N("bullet points", lambda text, p: bullets(text)),
    "section_count": N("sections: a marker and a number", sections, needs={"marker": TEXT}),
    "highlight_count": N("*highlighted* stretches", lambda text, p: highlights(text)),
    "placeholder_count": N("[placeholders]", lambda text, p: len(re.findall(r"\[[^\[\]\n]*\]", text))),
    "keyword_count": N("the keyword", lambda text, p: occurrences(p["keyword"], text), needs={"keyword": TEXT}),
    "letter_count": N("the letter", lambda text, p: occurrences(p["letter"], text), needs={"letter": LETTER}),
    "capital_word_count": N("words in capitals", lambda text, p: sum(map(str.isupper, words(text)))),
    "keywords_present": C("all occur", lambda text, p: all_of(p["keywords"], text), needs={"keywords": TEXTS}),
    "keywords_absent": C("no word is one", lambda text, p: none_of(p["keywords"], text), needs={"keywords": TEXTS}),
    "one_of": C("an option occurs", lambda text, p: any_of(p["options"], text), needs={"options": TEXTS}),
    "starts_with": C("begins with it", lambda text, p: begins_with(text, p["text"]), needs={"text": TEXT}),
    "ends_with": C("ends with it", ends_with, needs={"text": TEXT}),
    "repeat_prompt": C(
        "begins with the prompt", lambda text, p: begins_with(text, p.get("text", p["prompt"])), takes={"text": TEXT}
    ),
    "paragraph_starts_with": C(
        "a paragraph's first word", paragraph_starts, needs={"place": PLACE, "word": TEXT}, takes={"paragraphs": PLACE}
    ),
    "postscript": C("has a postscript", has_postscript, takes={"marker": TEXT}),
    "json": C("is JSON", lambda text, p: is_json(text)),
    "title": C("has a <<title>>", lambda text, p: has_title(text)),
    "all_capitals": C("no small letter", lambda text, p: text.isupper()),
    "all_lowercase": C("no capital letter", lambda text, p: text.islower()),
    "no_commas": C("no comma", lambda text, p: "," not in text),
    "quotation": C('stands in "double quotes"', lambda text, p: quoted(text)),
    "two_responses": C("two answers, ****** between them", two_responses),
}


@dataclass(frozen=True)
class Theirs:
    """An instruction of IFEval: our constraint for it, and our names of its parameters.

    Args:
        number: their parameter that is a count, and `relation` the one that says "at least" or "less than"; where
            there is none, `bound` is what the number is.
    """

    id: str
    names: Mapping[str, str] = field(default_factory=dict)
    number: str = ""
    relation: str = ""
    bound: str = "at_least"
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needed(self) -> list[str]:
        return [name for name in (*self.names, self.number, self.relation) if name]

    def ours(self, values: Parameters) -> dict[str, Any]:
        """Their parameters as our row."""
        row = {"id": self.id, **self.fixed, **{ours: values[theirs] for theirs, ours in self.names.items()}}
        if self.number:
            fewer = bool(self.relation) and RELATIONS[values[self.relation]]
            row |= {"at_most": values[self.number] - 1} if fewer else {self.bound: values[self.number]}
        return row


IFEVAL: dict[str, Theirs] = {
    "keywords:existence": Theirs("keywords_present", {"keywords": "keywords"}),
    "keywords:frequency": Theirs("keyword_count", {"keyword": "keyword"}, "frequency", "relation"),
    "keywords:forbidden_words": Theirs("keywords_absent", {"forbidden_words": "keywords"}),
    "keywords:letter_frequency": Theirs("letter_count", {"letter": "letter"}, "let_frequency", "let_relation"),
    "length_constraints:number_sentences": Theirs("sentence_count", {}, "num_sentences", "relation"),
    "length_constraints:number_paragraphs": Theirs(
        "paragraph_count", {}, "num_paragraphs", bound="exactly", fixed={"separator": "***"}
    ),
    "length_constraints:number_words": Theirs("word_count", {}, "num_words", "relation"),
    "length_constraints:nth_paragraph_first_word": Theirs(
        "paragraph_starts_with", {"num_paragraphs": "paragraphs", "nth_paragraph": "place", "first_word": "word"}
    ),
    "detectable_content:number_placeholders": Theirs("placeholder_count", {}, "num_placeholders"),
    "detectable_content:postscript": Theirs("postscript", {"postscript_marker": "marker"}),
    "detectable_format:number_bullet_lists": Theirs("bullet_count", {}, "num_bullets", bound="exactly"),
    "detectable_format:constrained_response": Theirs(
        "one_of", fixed={"options": ["My answer is yes.", "My answer is no.", "My answer is maybe."]}
    ),
    "detectable_format:number_highlighted_sections": Theirs("highlight_count", {}, "num_highlights"),
    "detectable_format:multiple_sections": Theirs("section_count", {"section_spliter": "marker"}, "num_sections"),
    "detectable_format:json_format": Theirs("json"),
    "detectable_format:title": Theirs("title"),
    "combination:two_responses": Theirs("two_responses"),
    "combination:repeat_prompt": Theirs("repeat_prompt", {"prompt_to_repeat": "text"}),
    "startend:end_checker": Theirs("ends_with", {"end_phrase": "text"}),
    "change_case:capital_word_frequency": Theirs("capital_word_count", {}, "capital_frequency", "capital_relation"),
    "change_case:english_capital": Theirs("all_capitals"),
    "change_case:english_lowercase": Theirs("all_lowercase"),
    "punctuation:no_comma": Theirs("no_commas"),
    "startend:quotation": Theirs("quotation"),
}
