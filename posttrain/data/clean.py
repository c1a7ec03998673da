"""Dropping rows without silence: every reason is counted, and a share too large is an error."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from posttrain.artifacts.problems import Problem, prompt_text
from posttrain.errors import DataError

T = TypeVar("T")

# 13-grams as in GPT-3's decontamination (2005.14165, appendix C): long enough that chance overlaps are rare.
_GRAM = 13
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Candidate(Generic[T]):
    """A parsed row that may be kept: its value, where it stood, what makes it a duplicate, its prompt's text."""

    value: T
    place: str
    identity: str
    prompt: str


@dataclass
class Cleaning:
    """Counts what happens to the rows of one source and decides when too much is wrong."""

    source: str
    max_malformed: float
    max_contaminated: float
    total: int
    counts: dict[str, int] = field(default_factory=dict)
    unusable: int = 0

    def __post_init__(self) -> None:
        self.counts["rows_read"] = self.total

    def malformed(self, complaints: Sequence[str], reason: str = "malformed") -> None:
        """Count unusable rows.

        Raises:
            DataError: their share is above the bound, or no row is left; names the first.
        """
        if not complaints:
            return
        self.counts[f"dropped_{reason}"] = self.counts.get(f"dropped_{reason}", 0) + len(complaints)
        self.unusable += len(complaints)
        share = self.unusable / self.total
        if share > self.max_malformed or self.unusable == self.total:
            raise DataError(
                f"{complaints[0]} ({self.unusable} of {self.total} rows cannot be used, {share:.1%}, allowed "
                f"{self.max_malformed:.1%}); mend the rows or raise max_malformed"
            )

    def keep(self, candidates: Sequence[Candidate[T]], contamination: Contamination) -> list[T]:
        """What remains after exact duplicates and rows found in the held-out problems are dropped and counted.

        Raises:
            DataError: too many rows are held out, or none remains.
        """
        seen: set[str] = set()
        kept: list[T] = []
        reasons: Counter[str] = Counter()
        held_out: list[str] = []
        for candidate in candidates:
            if candidate.identity in seen:
                reasons["duplicate"] += 1
            elif found := contamination.find(candidate.prompt):
                held_out.append(f"{candidate.place}: its prompt is the held-out problem {found!r}")
            else:
                seen.add(candidate.identity)
                kept.append(candidate.value)
        reasons["held_out"] += len(held_out)
        self.counts |= {f"dropped_{reason}": count for reason, count in reasons.items() if count}
        self.counts["rows_kept"] = len(kept)
        share = len(held_out) / self.total
        if share > self.max_contaminated or (held_out and not kept):
            raise DataError(
                f"{held_out[0]} ({len(held_out)} of {self.total} rows, {share:.1%}, allowed "
                f"{self.max_contaminated:.1%}); split training and held-out data apart, or "
                "raise max_contaminated to drop the rows"
            )
        if not kept:
            raise DataError(f"{self.source}: no usable row is left ({self.counts}); mend the data")
        return kept


class Contamination:
    """Finds held-out prompts in other text: the same prompt, or a shared run of 13 words."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._exact: dict[str, str] = {}
        self._grams: dict[tuple[str, ...], str] = {}
        for problem in problems:
            text = prompt_text(problem.prompt)
            self._exact[_normal(text)] = problem.id
            for gram in _grams(text):
                self._grams.setdefault(gram, problem.id)

    def find(self, text: str) -> str | None:
        """The id of a held-out problem that the text contains, or None."""
        if not self._exact:
            return None
        exact = self._exact.get(_normal(text))
        return exact or next((self._grams[gram] for gram in _grams(text) if gram in self._grams), None)


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _grams(text: str) -> list[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return [tuple(words[start : start + _GRAM]) for start in range(len(words) - _GRAM + 1)]


def identity(*parts: Any) -> str:
    """A key under which two rows are duplicates: equal to the letter, for case and spaces may be what is taught."""
    return "\x1f".join(map(repr, parts))
