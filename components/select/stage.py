"""Selects problems by what a policy does on them: never, sometimes or always right.

Problems that are always or never right give GRPO no gradient (its groups have no contrast), so RL at the edge of
competence keeps those in between (2512.07783); the never-right ones are what expansion is for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from posttrain.artifacts.evaluation import measured_on, read_evaluation
from posttrain.artifacts.problems import read_problems, write_problems
from posttrain.errors import ContractError, DataError
from posttrain.progress import Progress
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind

Part = Literal["never", "sometimes", "always"]


class SelectSettings(Settings):
    """What to keep."""

    keep: list[Part] = Field(default=["sometimes"], min_length=1, description="never, sometimes, always right")


PARENTS = {
    "candidates": ParentSpec(Kind.PROBLEMS, help="what to select from"),
    "evaluation": ParentSpec(Kind.EVALUATION, help="an evaluation of these very problems"),
}


def check(settings: SelectSettings, parents: Parents) -> None:
    """The evaluation must be of these problems."""
    if measured_on(parents.one("evaluation").record) != parents.one("candidates").digest:
        raise ContractError("select: the evaluation was made on other problems; evaluate the policy on these")


def run(settings: SelectSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Count, keep, write."""
    evaluation = read_evaluation(parents.one("evaluation").path)
    n_M, c_M = evaluation.scored_M, evaluation.correct_M
    parts: dict[Part, np.ndarray] = {
        "never": (n_M > 0) & (c_M == 0),
        "sometimes": (c_M > 0) & (c_M < n_M),
        "always": (n_M > 0) & (c_M == n_M),
    }
    wanted = {str(name) for part in settings.keep for name in evaluation.problem_id_M[parts[part]]}
    kept = [problem for problem in read_problems(parents.one("candidates").path) if problem.id in wanted]
    if not kept:
        raise DataError(
            f"select: no problem is {' or '.join(settings.keep)} right; keep others, or measure more samples"
        )
    write_problems(kept, out)
    progress.update(1, 1, f"{len(kept)} of {len(evaluation)} problems kept")
    counts = {f"{part}_right": int(mask.sum()) for part, mask in parts.items()}
    return Work(
        facts={"rows": len(kept), "kind": "problems"},
        counts={**counts, "unscorable": int((n_M == 0).sum()), "kept": len(kept)},
        metrics={"kept_share": len(kept) / max(len(evaluation), 1)},
    )


STAGE = Stage(
    name="select",
    output="problems",
    makes=Kind.PROBLEMS,
    parents=PARENTS,
    settings=SelectSettings,
    run=run,
    check=check,
    image="control",
    measures=False,
)
