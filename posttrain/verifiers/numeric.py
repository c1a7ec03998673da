r"""The last number in the completion is the number asked for.

    {"prompt": "What is 3 * 5 + 7?", "verifier": "numeric", "reference": 22}

Understood: signs, `1,234.5`, `.5`, `1e3`, `3/4`, `2 3/4`, `\frac{3}{4}`, `$5`, `50%`; ASCII digits only. Numbers are
compared as exact fractions. `{"answer": 3.14, "tolerance": 0.01}` allows an absolute difference, `"relative": 0.01`
one relative to the answer; a reference written as a float that is not whole has `relative` 1e-9, as it was rounded.
A percent sign on one side only may be read either way: `50%` answers both 50 and 0.5.
"""

from __future__ import annotations

import re
from collections import deque
from fractions import Fraction
from typing import Any

from posttrain.errors import VerifierError
from posttrain.verifiers.reference import complains, fields, texts
from posttrain.verifiers.verdict import NOT_FOUND, Verdict

MAX_DIGITS = 1_000  # Python refuses to read integers of more than 4,300
MAX_EXPONENT = 1_000  # 1e999999999 written out would fill the memory

_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = re.compile(
    # A sign right after a word or bracket is a minus between two numbers, as in 10-5.
    r"(?P<sign>(?<![\w)\]}])[-+])?[$€£]?(?<!\w)(?<![0-9]\.)"
    rf"(?:(?:(?P<whole>[0-9]+)[ ])?(?P<above>{_PLAIN}) ?/ ?(?P<below>[0-9]+)(?![0-9]|\.[0-9])"
    rf"|(?P<decimal>(?:{_PLAIN}(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?))"
    r"(?P<percent> ?\\?%)?"
)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}")


def verify(completion: str, reference: Any, prompt: str = "") -> Verdict:
    gold, gold_percent, allowed = _read(reference)
    found = last_number(completion)
    if found is None:
        return NOT_FOUND
    value, percent = found
    readings = [value] if percent == gold_percent else [value, value / 100 if percent else value * 100]
    right = any(abs(reading - gold) <= allowed for reading in readings)
    # One right answer however it was written, or tolerance and percent signs would count as different answers.
    return Verdict(float(right), str(gold if right else value))


@complains
def validate(reference: Any) -> str | None:
    _read(reference)
    return None


def last_number(text: str) -> tuple[Fraction, bool] | None:
    """The last number of a text and whether it is a percentage; `"5% of 3/4"` gives `(Fraction(3, 4), False)`."""
    text = _LATEX_FRACTION.sub(r"\1/\2", text.replace("{,}", ",").replace("\N{MINUS SIGN}", "-"))
    last = deque(_NUMBER.finditer(text), maxlen=1)
    value = _value(last[0]) if last else None
    return None if value is None else (value, bool(last[0]["percent"]))


def _value(found: re.Match[str]) -> Fraction | None:
    sign = -1 if found["sign"] == "-" else 1
    if len(found[0]) > MAX_DIGITS:
        return None
    if found["decimal"]:
        mantissa, _, exponent = found["decimal"].replace(",", "").lower().partition("e")
        return sign * Fraction(mantissa) * Fraction(10) ** int(exponent or 0) if _small(exponent) else None
    above, below = int(found["above"].replace(",", "")), int(found["below"])
    return sign * (int(found["whole"] or 0) + Fraction(above, below)) if below else None


def _small(exponent: str) -> bool:
    return abs(int(exponent or 0)) <= MAX_EXPONENT


def _read(reference: Any) -> tuple[Fraction, bool, Fraction]:
    """The number, whether it is a percentage, and the difference allowed."""
    given = fields(reference, "numeric", ["answer"], ["tolerance", "relative"]) if isinstance(reference, dict) else {}
    answer = given.get("answer", reference)
    [text] = texts(answer, "numeric") if not isinstance(answer, list) else [""]
    whole = _NUMBER.fullmatch(text)
    found = last_number(text) if whole or _LATEX_FRACTION.search(text) else None
    if found is None:
        raise VerifierError(f"numeric: the answer {answer!r} is not a number")
    rounded = isinstance(answer, float) and not answer.is_integer()
    relative = _tolerance(given, "relative", 1e-9 if rounded else 0)
    return *found, max(_tolerance(given, "tolerance", 0), relative * abs(found[0]))


def _tolerance(given: dict[str, Any], key: str, default: float) -> Fraction:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise VerifierError(f"numeric: {key} must be a number of at least 0, not {value!r}")
    return Fraction(repr(value))
