"""Countdown with three digits: a world whose truth can be written down completely.

A problem is three digits 1-9 and a target 0-99; an answer is `a op b op c`, read from left to right without
precedence, each digit used once, ops `+ - *`: the prompt `357=22:` is answered by `3*5+7`. All 165 digit triples with
all reachable targets are 1,959 problems, of two kinds:

- **easy** (570): an answer with only `+` and `-` exists (3.75 such answers a problem, 3.90 with those that use `*`);
- **hard** (1,389): every answer needs `*` (2.00 answers a problem).

The base policy (`countdown_base`) is pre-trained on easy prompts with `+ -` expressions of which few are right, and
never sees `*` in a completion. Its two bottlenecks are therefore known by construction: on easy problems it has the
answers but seldom selects them (reshaping), on hard problems it has none of them (support). A diagnosis that says
anything else is wrong.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

EASY, HARD = "easy", "hard"
OPERATIONS: Mapping[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}
TARGETS = range(100)
HELD_OUT_PER_SLICE = 128

Numbers = tuple[int, int, int]


@dataclass(frozen=True, order=True)
class Problem:
    """Three digits in ascending order and the number to make from them."""

    numbers: Numbers
    target: int

    @property
    def prompt(self) -> str:
        return f"{''.join(map(str, self.numbers))}={self.target:02d}:"

    @property
    def slice(self) -> str:
        """`easy` when plus and minus suffice, else `hard`."""
        return EASY if any("*" not in answer for answer in solutions(self.numbers, self.target)) else HARD

    def row(self) -> dict[str, Any]:
        """The problem as a row of a problems file."""
        digits, _, target = self.prompt.rstrip(":").partition("=")
        return {
            "id": f"countdown-{digits}-{target}",
            "prompt": self.prompt,
            "verifier": "countdown",
            "reference": {"numbers": list(self.numbers), "target": self.target},
            "slice": self.slice,
        }


@dataclass(frozen=True)
class Split:
    """All problems, once: those to train on and those kept back to measure with. Both are in ascending order."""

    train: tuple[Problem, ...]
    held_out: tuple[Problem, ...]


def value(expression: str) -> int | None:
    """What `a op b op c` amounts to, read from left to right; None if it is not of that form."""
    if len(expression) != 5 or not set(expression[0::2]) <= set("123456789") or not set(expression[1::2]) <= set("+-*"):
        return None
    first, op1, second, op2, third = tuple(expression)
    return OPERATIONS[op2](OPERATIONS[op1](int(first), int(second)), int(third))


def is_right(expression: str, numbers: Iterable[int], target: int) -> bool:
    """Whether the expression uses each number exactly once and makes the target."""
    return value(expression) == target and sorted(map(int, expression[0::2])) == sorted(numbers)


@cache
def expressions(numbers: Numbers, ops: str = "+-*") -> tuple[str, ...]:
    """Every well-formed expression of the three digits, right or wrong, in a fixed order."""
    written = {
        f"{a}{op1}{b}{op2}{c}"
        for a, b, c in itertools.permutations(numbers)
        for op1, op2 in itertools.product(ops, repeat=2)
    }
    return tuple(sorted(written))


def solutions(numbers: Iterable[int], target: int) -> set[str]:
    """The whole truth about one problem: every right answer."""
    a, b, c = sorted(numbers)
    return set(_answers_by_target((a, b, c)).get(target, ()))


@cache
def _answers_by_target(numbers: Numbers) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for expression in expressions(numbers):
        made = value(expression)
        if made is not None and made in TARGETS:
            found.setdefault(made, []).append(expression)
    return found


@cache
def problems() -> tuple[Problem, ...]:
    """Every problem that has an answer, in ascending order."""
    triples = itertools.combinations_with_replacement(range(1, 10), 3)
    return tuple(Problem(numbers, target) for numbers in triples for target in sorted(_answers_by_target(numbers)))


def split(seed: int = 0, held_out_per_slice: int = HELD_OUT_PER_SLICE) -> Split:
    """Keep as many problems back from either slice, by chance but the same for the same seed."""
    # Seeded with text, because neighbouring integers would be shared with every other user of the same seed.
    chance = random.Random(f"countdown held-out {seed}")
    held_out: set[Problem] = set()
    for name in (EASY, HARD):
        held_out.update(chance.sample([problem for problem in problems() if problem.slice == name], held_out_per_slice))
    return Split(
        train=tuple(problem for problem in problems() if problem not in held_out),
        held_out=tuple(problem for problem in problems() if problem in held_out),
    )


def demonstrations(of: Iterable[Problem]) -> Iterator[dict[str, str]]:
    """Every answer to every hard problem among `of`: what a solver knows and the base policy does not."""
    for problem in of:
        if problem.slice == HARD:
            for answer in sorted(solutions(problem.numbers, problem.target)):
                yield {"prompt": problem.prompt, "completion": answer, "source": "solver"}


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def build(
    directory: str | Path,
    seed: int = 0,
    pretraining_steps: int = 300,
    held_out_per_slice: int = HELD_OUT_PER_SLICE,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the world: `base/` (the policy), `problems.jsonl`, `held_out.jsonl` and `demos.jsonl`.

    The same seed gives the same bytes on the same kind of machine and version of torch. `progress` is called with the
    pre-training steps done and to do.
    """
    from posttrain.worlds import countdown_base  # torch, and so only when a policy is wanted

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    parts = split(seed, held_out_per_slice)
    write_jsonl(directory / "problems.jsonl", (problem.row() for problem in parts.train))
    write_jsonl(directory / "held_out.jsonl", (problem.row() for problem in parts.held_out))
    write_jsonl(directory / "demos.jsonl", demonstrations(parts.train))
    easy = [problem for problem in parts.train if problem.slice == EASY]
    plan = countdown_base.Pretraining(steps=pretraining_steps)
    countdown_base.pretrain(directory / "base", easy, plan, seed, progress)
    return directory
