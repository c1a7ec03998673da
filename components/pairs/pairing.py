"""Which of a problem's answers are put beside each other."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import combinations
from typing import Any

from posttrain.artifacts.digests import digest_value
from posttrain.artifacts.rows import Row

Pair = tuple[Row, Row]  # the better answer, the worse one

_SHARED = ("problem_id", "verifier", "reference", "slice")  # what both answers have from their problem


def key(row: Row, *columns: str) -> str:
    """Names what the columns say."""
    return digest_value([row.get(column) for column in columns])


def distinct(rows: Iterable[Row]) -> list[Row]:
    """Each completion of a problem once, the first of equal ones."""
    return list({key(row, "problem_id", "prompt", "completion"): row for row in reversed(list(rows))}.values())[::-1]


def by_problem(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each problem."""
    problems: dict[str, list[Row]] = {}
    for row in rows:
        problems.setdefault(key(row, "problem_id", "prompt"), []).append(row)
    return problems


def ranked_pairs(
    answers: list[Row], method: str, problem: str, seed: int, by: str = "reward", min_margin: float = 0.0
) -> list[Pair]:
    """The pairs of one problem's scored answers, best first; none if there is no contrast.

    Args:
        method: `best_worst`, `margin` or `random`.
        problem: names the problem, so that its draws depend on no other's.
        by: the column that ranks them.
    """

    def margin(pair: Pair) -> float:
        return float(pair[0][by]) - float(pair[1][by])

    draw = random.Random(digest_value([seed, problem]))
    ranked = sorted(draw.sample(answers, len(answers)), key=lambda row: -row[by])
    candidates: Iterable[Pair]
    if method == "best_worst":
        half = len(ranked) // 2
        candidates = zip(ranked[:half], ranked[::-1], strict=False)
    else:
        candidates = list(combinations(ranked, 2))
        draw.shuffle(candidates)
        if method == "margin":
            candidates.sort(key=margin, reverse=True)
    return [pair for pair in candidates if margin(pair) > 0 and margin(pair) >= min_margin]


def delta_pairs(stronger: list[Row], weaker: list[Row], problem: str, seed: int) -> list[Pair]:
    """A stronger sampler's answers beside a weaker one's to the same problem; an answer of both is neither."""
    draw = random.Random(digest_value([seed, problem]))
    sides = [{key(row, "completion"): row for row in rows} for rows in (stronger, weaker)]
    both = sides[0].keys() & sides[1].keys()
    chosen, rejected = ([row for name, row in side.items() if name not in both] for side in sides)
    return list(zip(draw.sample(chosen, len(chosen)), draw.sample(rejected, len(rejected)), strict=False))


def pair_row(better: Row, worse: Row) -> Row:
    """A pair as a preference row; a sampler of both is its sampler, two are each named."""
    row: dict[str, Any] = {name: better[name] for name in _SHARED if name in better}
    row |= {"prompt": better["prompt"], "source": "pairs"}
    one = better.get("sampler") == worse.get("sampler")
    for side, answer in (("chosen", better), ("rejected", worse)):
        row |= {side: answer["completion"]}
        row |= {f"{side}_{what}": answer[what] for what in ("reward", "score") if what in answer}
        row["sampler" if one else f"{side}_sampler"] = answer.get("sampler")
    return row
