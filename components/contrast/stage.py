"""Compares candidates measured on the same problems: each with the base and with the best of them, paired.

What the survey (2604.07941, section 7.2) asks for as provenance swaps, stage-order ablations and matched comparisons.
A winner is named only if the paired interval against every other candidate excludes zero.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.evaluation import Conditions, comparable, read_evaluation
from posttrain.diagnosis.compare import Comparison, compare
from posttrain.diagnosis.intervals import Interval
from posttrain.errors import ContractError
from posttrain.progress import Progress
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind

MOST = 64

PARENTS = {
    "candidates": ParentSpec(Kind.EVALUATION, most=MOST, help="evaluations of the candidates, same problems"),
    "base": ParentSpec(Kind.EVALUATION, help="the base's evaluation"),
}


@dataclass(frozen=True)
class Candidate:
    """One candidate beside the base and the best one; the best has nothing to be compared with."""

    name: str
    seconds: float
    against_base: Comparison
    behind_best: Interval | None


def check(settings: Settings, parents: Parents) -> None:
    """All must have been measured alike."""
    base = parents.one("base")
    for candidate in parents.all("candidates"):
        comparable(Conditions.recorded(base.record), Conditions.recorded(candidate.record))
    names = [name_of(candidate) for candidate in parents.all("candidates")]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ContractError(f"contrast: two candidates are called {repeated[0]!r}; name each differently")


def name_of(candidate: Artifact) -> str:
    """What a candidate is called: its evaluation's name."""
    return candidate.record.name


def run(settings: Settings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Rank by pass@1, compare each with the best."""
    base = read_evaluation(parents.one("base").path)
    measured = {name_of(artifact): read_evaluation(artifact.path) for artifact in parents.all("candidates")}
    against = {name: compare(base, evaluation, seed=settings.seed) for name, evaluation in measured.items()}
    ranked = sorted(against, key=lambda name: -against[name].pass_1.after.estimate)
    best = ranked[0]
    seconds = {name_of(artifact): spent(artifact) for artifact in parents.all("candidates")}
    candidates = [
        Candidate(
            name,
            seconds[name],
            against[name],
            None if name == best else compare(measured[name], measured[best], seed=settings.seed).pass_1.delta,
        )
        for name in ranked
    ]
    clear = all(candidate.behind_best is None or candidate.behind_best.low > 0 for candidate in candidates)
    verdict = best if clear else "undecided"
    rows = [
        {
            "name": c.name,
            "seconds": c.seconds,
            "pass_1": asdict(c.against_base.pass_1.after),
            "gain": asdict(c.against_base.pass_1.delta),
            "pass_k": asdict(c.against_base.pass_k.after),
            "behind_best": asdict(c.behind_best) if c.behind_best else None,
        }
        for c in candidates
    ]
    (out / "contrast.json").write_text(json.dumps({"verdict": verdict, "candidates": rows}, indent=1) + "\n")
    progress.update(1, 1, f"best: {best}")
    from posttrain.report.contrast import contrast_blocks

    return Work(
        facts={"verdict": verdict, "best": best, "candidates": len(candidates)},
        metrics={f"{c.name}/pass_at_1": c.against_base.pass_1.after.estimate for c in candidates},
        blocks=contrast_blocks(verdict, candidates),
    )


def spent(candidate: Artifact) -> float:
    """Seconds of all stages that the candidate's evaluation came from, its own included."""
    return round(sum(record.seconds for record in candidate.record.family().values()), 1)


STAGE = Stage(
    name="contrast",
    output="contrast",
    makes=Kind.REPORT,
    parents=PARENTS,
    settings=Settings,
    run=run,
    check=check,
    image="control",
)
