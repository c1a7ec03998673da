"""Preference pairs from scored trajectories: for one prompt, a better answer beside a worse one.

1. Answers are compared within a problem only, by their verified rewards; equal answers count once.
2. `best_worst` ranks a problem's answers and pairs the best with the worst, the second with the last but one, and so
   on: no answer is used twice. `margin` takes the pairs with the largest differences, `random` any; both may use an
   answer in several pairs. Ties are broken at random, by the seed and the problem alone.
3. A problem whose answers are all alike has no contrast to learn from: it is counted, as are answers that could not be
   scored and pairs with an answer that its sampler never ended.
With rewards of right and wrong this is the construction of iterative reasoning preference optimisation (2404.19733,
section 2).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from posttrain.artifacts.digests import digest_value
from posttrain.artifacts.rows import Row
from posttrain.artifacts.trajectories import read_trajectories, write_trajectories
from posttrain.errors import ContractError, DataError
from posttrain.progress import Progress
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind

Pair = tuple[Row, Row]  # the better answer, the worse one

_SHARED = ("problem_id", "verifier", "reference", "slice")  # what both answers have from their problem


class PairsSettings(Settings):
    """Which answers to pair."""

    method: Literal["best_worst", "margin", "random"] = Field(default="best_worst", description="what is paired first")
    min_margin: float = Field(
        default=0.0, ge=0, le=1, description="smallest difference of the rewards; 0 = any difference"
    )
    max_pairs_per_problem: int = Field(default=1, ge=0, description="keep at most so many pairs a problem; 0 = all")


PARENTS = {"trajectories": ParentSpec(Kind.TRAJECTORIES, help="scored answers, several a problem, as verify makes")}


def check(settings: PairsSettings, parents: Parents) -> None:
    """The rows must be single answers with rewards."""
    source = parents.one("trajectories")
    shape = source.record.facts.get("shape")
    if shape != "prompt-completion":
        raise ContractError(f"pairs: trajectories have shape {shape!r}; give prompt-completion rows with rewards")
    if not any("reward" in row for row in read_trajectories(source.path)):
        raise ContractError("pairs: trajectories have no rewards; score them with verify first")


def run(settings: PairsSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Group, pair, write."""
    rows = read_trajectories(parents.one("trajectories").path)
    scored = [row for row in rows if row["reward"] is not None]
    distinct = {_key(row, "problem_id", "prompt", "completion"): row for row in reversed(scored)}
    problems: dict[str, list[Row]] = {_key(row, "problem_id", "prompt"): [] for row in rows}
    for row in distinct.values():
        problems[_key(row, "problem_id", "prompt")].append(row)
    paired = {problem: paired_answers(answers, settings, problem) for problem, answers in problems.items()}
    pairs = [pair for found in paired.values() for pair in found]
    without = sum(not found for found in paired.values())
    if not pairs:
        raise DataError(
            f"pairs: in none of {len(problems)} problems do two of the {len(distinct)} scored answers differ by "
            f"min_margin={settings.min_margin}; sample more, other problems, or lower it"
        )
    write_trajectories([_row(*pair) for pair in pairs], out)
    progress.update(1, 1, f"{len(pairs)} pairs from {len(problems)} problems")
    return Work(
        facts={"rows": len(pairs), "shape": "preference"},
        counts={
            "trajectories": len(rows),
            "unscorable": len(rows) - len(scored),
            "duplicates": len(scored) - len(distinct),
            "problems": len(problems),
            "no_contrast": without,
            "pairs": len(pairs),
            "unfinished": sum(any(row.get("finish") == "length" for row in pair) for pair in pairs),
        },
        metrics={
            "paired_share": 1 - without / len(problems),
            "mean_margin": sum(better["reward"] - worse["reward"] for better, worse in pairs) / len(pairs),
        },
    )


def _key(row: Row, *columns: str) -> str:
    return digest_value([row.get(column) for column in columns])


def paired_answers(answers: list[Row], settings: PairsSettings, problem: str) -> list[Pair]:
    """The pairs of one problem's scored answers; none if there is no contrast.

    Args:
        problem: names the problem, so that its draws depend on no other's.
    """
    draw = random.Random(digest_value([settings.seed, problem]))
    ranked = sorted(draw.sample(answers, len(answers)), key=lambda row: -row["reward"])
    candidates: Iterable[Pair]
    if settings.method == "best_worst":
        half = len(ranked) // 2
        candidates = zip(ranked[:half], ranked[::-1], strict=False)
    else:
        candidates = list(combinations(ranked, 2))
        draw.shuffle(candidates)
        if settings.method == "margin":
            candidates.sort(key=_margin, reverse=True)
    kept = [pair for pair in candidates if _margin(pair) > 0 and _margin(pair) >= settings.min_margin]
    return kept[: settings.max_pairs_per_problem or None]


def _margin(pair: Pair) -> float:
    better, worse = pair
    return float(better["reward"]) - float(worse["reward"])


def _row(better: Row, worse: Row) -> Row:
    """A pair as a preference row; a sampler of both is its sampler, two are each named."""
    row: dict[str, Any] = {name: better[name] for name in _SHARED if name in better}
    row |= {"prompt": better["prompt"], "source": "pairs"}
    one = better.get("sampler") == worse.get("sampler")
    for side, answer in (("chosen", better), ("rejected", worse)):
        row |= {side: answer["completion"], f"{side}_reward": answer["reward"]}
        row["sampler" if one else f"{side}_sampler"] = answer.get("sampler")
    return row


STAGE = Stage(
    name="pairs",
    output="preferences",
    makes=Kind.TRAJECTORIES,
    parents=PARENTS,
    settings=PairsSettings,
    run=run,
    check=check,
    method=lambda settings: settings.method,
    image="control",
)
