"""A tiny evaluator of `+ - * /` over whole numbers, exact, without `eval`."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import combinations

from posttrain.errors import PosttrainError

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
MAX_DEPTH = 50  # brackets in brackets
MAX_DIGITS = 50

_TOKEN = re.compile(r"[0-9]+|[-+*/()]")


class Malformed(PosttrainError, ValueError):
    """Not an expression; the completion's fault, never the reference's."""


def tokens(expression: str) -> list[str]:
    """`"3 * 05+7"` gives `["3", "*", "5", "+", "7"]`."""
    if _TOKEN.sub("", expression).strip():
        raise Malformed(f"{expression!r} holds something other than numbers, + - * / and brackets")
    found = _TOKEN.findall(expression)
    if any(len(token) > MAX_DIGITS for token in found):
        raise Malformed("a number is too long")
    return [str(int(token)) if token.isdigit() else token for token in found]


def evaluate(found: list[str], precedence: bool) -> Fraction | None:
    """The value; None where it divides by zero.

    Raises:
        Malformed: not an expression; without precedence, brackets are none either.
    """
    left = list(reversed(found))
    try:
        value = _sum(left, MAX_DEPTH) if precedence else _left_to_right(left)
    except ZeroDivisionError:
        return None
    if left:
        raise Malformed(f"unexpected {left[-1]!r}")
    return value


def _left_to_right(left: list[str]) -> Fraction:
    value = _number(left)
    while left and left[-1] in OPERATORS:
        value = OPERATORS[left.pop()](value, _number(left))
    return value


def _sum(left: list[str], depth: int) -> Fraction:
    value = _product(left, depth)
    while left and left[-1] in "+-":
        value = OPERATORS[left.pop()](value, _product(left, depth))
    return value


def _product(left: list[str], depth: int) -> Fraction:
    value = _atom(left, depth)
    while left and left[-1] in "*/":
        value = OPERATORS[left.pop()](value, _atom(left, depth))
    return value


def _atom(left: list[str], depth: int) -> Fraction:
    if not left or left[-1] != "(":
        return _number(left)
    if depth == 0:
        raise Malformed("brackets are nested too deep")
    left.pop()
    value = _sum(left, depth - 1)
    if not left or left.pop() != ")":
        raise Malformed("a bracket is not closed")
    return value


def _number(left: list[str]) -> Fraction:
    if not left or not left[-1].isdigit():
        raise Malformed("a number is missing")
    return Fraction(int(left.pop()))


@lru_cache(maxsize=4096)
def reachable(numbers: tuple[int, ...], precedence: bool) -> frozenset[Fraction]:
    """Every value of every expression that uses each number once."""
    if len(numbers) == 1:
        return frozenset({Fraction(numbers[0])})
    return frozenset(
        operate(a, b)
        for first, second in _splits(tuple(sorted(numbers)), precedence)
        for a in reachable(first, precedence)
        for b in reachable(second, precedence)
        for sign, operate in OPERATORS.items()
        if sign != "/" or b
    )


def _splits(numbers: tuple[int, ...], precedence: bool) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The operands of the last operation: from left to right, the second is always one number."""
    sizes = range(1, len(numbers)) if precedence else [len(numbers) - 1]
    for size in sizes:
        for chosen in combinations(range(len(numbers)), size):
            rest = tuple(number for i, number in enumerate(numbers) if i not in chosen)
            yield tuple(numbers[i] for i in chosen), rest
