r"""The completion chooses the right one of lettered answers.

    {"prompt": "Which is a noble gas? A) iron B) neon", "verifier": "choice",
     "reference": {"answer": "B", "choices": ["A", "B"]}}

The last choice that is stated counts: `The answer is (B)`, `Answer: **B**`, `\boxed{B}`, `<answer>b</answer>`, or a
line that is only `B`. Where nothing is stated, the last line that begins with a label does: `**B.** neon`, `B) neon`.
A plain `"B"` is short for choices A to H.
"""

from __future__ import annotations

import re
from collections import deque
from functools import lru_cache
from typing import Any

from posttrain.errors import VerifierError
from posttrain.verifiers.reference import complains, fields, texts
from posttrain.verifiers.verdict import NOT_FOUND, Verdict

LETTERS = tuple("ABCDEFGH")  # not to I, which is a word


def verify(completion: str, reference: Any, prompt: str = "") -> Verdict:
    answer, choices = _read(reference)
    stated, labelled = _patterns(choices)
    found = _last(stated, completion) or _last(labelled, completion)
    if found is None:
        return NOT_FOUND
    given = next(choice for choice in choices if choice.casefold() == found.casefold())
    return Verdict(float(given == answer), given)


@complains
def validate(reference: Any) -> str | None:
    answer, _ = _read(reference)
    recognised = verify(f"The answer is ({answer})", reference).score == 1
    return None if recognised else f"choice: the answer {answer!r} is never recognised"


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    last = deque(pattern.finditer(text), maxlen=1)
    return next(group for group in last[0].groups() if group) if last else None


@lru_cache(maxsize=64)
def _patterns(choices: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    one = "|".join(re.escape(choice) for choice in sorted(choices, key=len, reverse=True))
    any_case = f"(?i:{one})"
    wrap = r"[*_`$\s]{0,4}"
    stated = re.compile(
        # Bare letters in capitals only: "the answer is a tricky one" states nothing.
        rf"(?i:answer|(?:correct|right|best)\s+(?:option|choice))(?i:\s+is)?[:=]?{wrap}(?i:(?:option|choice)\s+)?{wrap}"
        rf"(?:\({wrap}({any_case}){wrap}\)|({one})(?![\w'\u2019]))"
        rf"|\\boxed\{{\s*(?:\\text(?:bf)?\{{)?\s*\(?({any_case})\)?\s*\}}"
        rf"|<answer>\s*\(?({any_case})(?!\w)"
        rf"|^[*_`$(\[ \t]{{0,4}}({any_case})[*_`$)\]. \t]{{0,4}}$",
        re.MULTILINE,
    )
    labelled = re.compile(rf"^[*_(\[ \t]{{0,4}}({one})[*_]{{0,2}}[).:\]]", re.MULTILINE)
    return stated, labelled


def _read(reference: Any) -> tuple[str, tuple[str, ...]]:
    given = fields(reference, "choice", ["answer"], ["choices"]) if isinstance(reference, dict) else {}
    answers = texts(given.get("answer", reference), "choice")
    if len(answers) > 1:
        raise VerifierError(f"choice: there must be one answer, not {answers!r}")
    choices = given.get("choices", LETTERS)
    if not isinstance(choices, list | tuple):
        raise VerifierError(f"choice: choices must be a list of labels, not {choices!r}")
    labels = tuple(texts(list(choices), "choice"))
    if len({label.casefold() for label in labels}) < len(labels):
        raise VerifierError(f"choice: choices repeat a label: {', '.join(labels)}")
    if answers[0] not in labels:
        raise VerifierError(f"choice: the answer {answers[0]!r} is not among the choices {', '.join(labels)}")
    return answers[0], labels
