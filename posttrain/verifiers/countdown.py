"""The completion is an arithmetic expression that uses each number once and makes the target.

    {"prompt": "357=22:", "verifier": "countdown", "reference": {"numbers": [3, 5, 7], "target": 22}}

is answered by `3*5+7`. Operators `+ - * /`, also typeset ones, are applied from left to right; `"precedence": true`
gives normal arithmetic with parentheses. Division is exact. The last expression of the last line counts, and with
`3*5+7 = 22` or `22 = 3*5+7` the side that has operators. Two ways of writing one solution are two answers.
"""

from __future__ import annotations

import re
from typing import Any

from posttrain.errors import VerifierError
from posttrain.verifiers.arithmetic import Malformed, evaluate, reachable, tokens
from posttrain.verifiers.reference import complains, fields
from posttrain.verifiers.verdict import NOT_FOUND, Verdict

MAX_LENGTH = 500  # characters of one expression
MAX_SEARCHED = {False: 5, True: 4}  # numbers for which all expressions can be tried in well under a second

_TYPESET = {"×": "*", "·": "*", "\\times": "*", "\\cdot": "*", "÷": "/", "\\div": "/", "−": "-", "`": " ", "$": " "}
_TAG = re.compile(r"</?answer>|(?<![0-9)])\*\*|\*\*(?![0-9(])")  # ** between two numbers is no bold, but a power
_RUN = re.compile(r"[(0-9][-+*/() 0-9]*")


def verify(completion: str, reference: Any, prompt: str = "") -> Verdict:
    numbers, target, precedence = _read(reference)
    expression = find(completion)
    if expression is None:
        return NOT_FOUND
    try:
        read = tokens(expression)
        made = evaluate(read, precedence)
    except Malformed:
        return NOT_FOUND
    used = sorted(int(token) for token in read if token.isdigit())
    return Verdict(float(made == target and used == sorted(numbers)), "".join(read))


@complains
def validate(reference: Any) -> str | None:
    numbers, target, precedence = _read(reference)
    if len(numbers) <= MAX_SEARCHED[precedence] and target not in reachable(tuple(numbers), precedence):
        return f"countdown: no expression of {numbers} makes {target}"
    return None


def find(completion: str) -> str | None:
    """The expression a completion ends with: `"Answer: 22 = 3*5 + 7."` gives `"3*5 + 7"`."""
    lines = completion.rstrip().rsplit("\n", 1)
    line = _TAG.sub(" ", lines[-1])
    if len(line) > MAX_LENGTH:
        return None
    for typeset, plain in _TYPESET.items():
        line = line.replace(typeset, plain)
    runs = [run for side in line.split("=") for run in _runs(side)]
    return next((run for run in reversed(runs) if re.search(r"[-+*/]", run)), runs[-1] if runs else None)


def _runs(side: str) -> list[str]:
    """Stretches of arithmetic in a text; one with a sign before it keeps it, so that it is refused, not misread."""
    found = []
    for run in _RUN.finditer(side):
        stretch = re.sub(r"\s+\($", "", run[0])  # "3*5+7 (each once)"
        before, after = side[: run.start()], side[run.start() + len(stretch) :]
        signed = before.endswith(("-", "+")) or before.rstrip().endswith(("*", "/"))
        cut = before[-1:].isalnum() or before.endswith((".", ",")) or after[:1].isalnum()
        stretch = stretch.strip()
        if "(" in before and stretch.count(")") == stretch.count("(") + 1:
            stretch = stretch.removesuffix(")")  # "(that is 3*5+7)"
        found.append("?" + stretch if signed or cut else stretch)
    return found


def _read(reference: Any) -> tuple[list[int], int, bool]:
    given = fields(reference, "countdown", ["numbers", "target"], ["precedence"])
    numbers, target, precedence = given["numbers"], given["target"], given.get("precedence", False)
    if not isinstance(numbers, list) or not numbers or not all(_whole(n) and n >= 0 for n in numbers):
        raise VerifierError(f"countdown: numbers must be a list of whole numbers of at least 0, not {numbers!r}")
    if not _whole(target):
        raise VerifierError(f"countdown: target must be a whole number, not {target!r}")
    if not isinstance(precedence, bool):
        raise VerifierError(f"countdown: precedence must be true or false, not {precedence!r}")
    return [int(number) for number in numbers], int(target), precedence


def _whole(value: Any) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
