r"""The completion's final mathematical expression equals the reference, by Math-Verify (SymPy).

    {"prompt": "Simplify $\\frac{2}{4}$.", "verifier": "math", "reference": "\\frac{1}{2}"}

The reference may be a number, LaTeX with or without `$`, a whole solution with `\boxed{}`, or a list of accepted
answers. A reference that does not parse makes every completion unscorable. Known limit of Math-Verify: scientific
notation outside LaTeX is cut short (`so it is 1e9` reads as 1).

Nothing here limits time: Math-Verify's own limit needs SIGALRM, which works in main threads only and silences other
alarms. `posttrain.verifiers.verify` runs this module in a worker process with a deadline.
"""

from __future__ import annotations

import re
from typing import Any

import math_verify
import math_verify.grader
import math_verify.parser

from posttrain.verifiers.reference import complains, fields, texts
from posttrain.verifiers.verdict import NOT_FOUND, UNSCORABLE, Verdict

# Each would warn once that its time limit is off, which it is on purpose.
math_verify.parser.TIMEOUT_WARNING_SHOWN = math_verify.grader.TIMEOUT_WARNING_SHOWN = True

TAIL = 4_000  # characters searched: Math-Verify is quadratic ("1 " 20,000 times took 13 s), and answers come last
MAX_BARE = 200  # characters taken for one formula without delimiters: "(" 3,000 times took 18 s

_DELIMITED = re.compile(r"\$|\\boxed|\\\(|\\\[|\\begin")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


def verify(completion: str, reference: Any, prompt: str = "") -> Verdict:
    golds = [gold for gold in map(_parse, _read(reference)) if gold]
    if not golds:
        return UNSCORABLE
    found = _parse(completion[-TAIL:])
    if not found:
        return NOT_FOUND
    for gold in golds:
        if math_verify.verify(gold, found, timeout_seconds=None):
            return Verdict(1.0, str(gold[0]))  # 0.5 and 1/2 are one answer
    return Verdict(0.0, str(found[0]))


@complains
def validate(reference: Any) -> str | None:
    for gold in _read(reference):
        if not _parse(gold):
            return f"math: the reference {gold!r} does not parse as mathematics; use exact or choice for words"
        if verify(gold, gold).score != 1:
            return f"math: the reference {gold!r} does not verify against itself"
    return None


def _read(reference: Any) -> list[str]:
    if isinstance(reference, dict):
        reference = fields(reference, "math", ["answer"])["answer"]
    return texts(reference, "math")


def _parse(text: str) -> list[Any]:
    text = text.strip()
    # Without delimiters Math-Verify looks for plain numbers only: it reads 2 in "2\sqrt{3}" and nothing in "x^2+1".
    if text and len(text) <= MAX_BARE and "\n" not in text and not _DELIMITED.search(text) and not _PROSE.search(text):
        text = rf"\boxed{{{text}}}"
    return math_verify.parse(text, fallback_mode="no_fallback", parsing_timeout=None)
