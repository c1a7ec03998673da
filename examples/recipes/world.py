"""What every named recipe asks for, in the Countdown world: policies, problems, demonstrations, preferences …"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.worlds import bottlenecks
from posttrain.worlds.countdown import EASY, HARD, expressions, is_right, solutions, write_jsonl

Row = dict[str, Any]

ANCHORS = 96


def inputs(directory: Path, seed: int = 0) -> dict[str, str]:
    """Input → path, for all that a recipe may name; built on the first call.

    The base seldom picks a right easy answer and has no hard one, the teacher knows both.
    """
    if not directory.exists():
        bottlenecks.build("strong_teacher", directory, seed=seed)
        rows = [json.loads(line) for line in (directory / "problems.jsonl").read_text(encoding="utf-8").splitlines()]
        easy, hard = ([row for row in rows if row["slice"] == name] for name in (EASY, HARD))
        write_jsonl(directory / "demos.jsonl", demonstrations(hard))
        write_jsonl(directory / "general.jsonl", demonstrations(easy))
        write_jsonl(directory / "reasoning.jsonl", demonstrations(rows))
        write_jsonl(directory / "preferences.jsonl", preferences(rows))
        write_jsonl(
            directory / "documents.jsonl", ({"text": d["prompt"] + d["completion"]} for d in demonstrations(hard))
        )
        write_jsonl(directory / "anchors.jsonl", easy[:ANCHORS])
    files = {path.stem: str(path) for path in directory.iterdir() if path.suffix == ".jsonl"}
    base = str(directory / "base")
    return {**files, "base": base, "original": base, "student": base, "teacher": str(directory / "teacher")}


def demonstrations(problems: list[Row]) -> Iterator[Row]:
    """Every answer to every problem."""
    for row in problems:
        for answer in sorted(solutions(**row["reference"])):
            yield {"prompt": row["prompt"], "completion": answer, "source": "solver"}


def preferences(problems: list[Row]) -> Iterator[Row]:
    """A right answer beside the first wrong one, a problem each."""
    for row in problems:
        numbers, target = row["reference"]["numbers"], row["reference"]["target"]
        written = expressions(tuple(numbers))
        right, wrong = (
            next(text for text in written if is_right(text, numbers, target) is side) for side in (True, False)
        )
        yield {"prompt": row["prompt"], "chosen": right, "rejected": wrong}
