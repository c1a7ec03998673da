"""Keeps a step or rolls it back: hands on the candidate if it is worth more than the best policy so far.

Decided on the problems that recommendations are made from, so that the exam half, by which the gate judges, has seen no
choice. Both policies' evaluations are found by digest.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import Field

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import size_of
from posttrain.artifacts.evaluation import Conditions, comparable, read_evaluation
from posttrain.artifacts.lineage import evaluation_of
from posttrain.diagnosis.compare import compare
from posttrain.diagnosis.keep import ANCHOR_LOSS, BREADTH, Fate, judge
from posttrain.errors import ContractError
from posttrain.progress import Progress
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind


class KeepSettings(Settings):
    """What a policy is worth."""

    breadth: float = Field(default=BREADTH, ge=0, le=1, description="weight of pass@K; pass@1 has the rest")
    provisional: bool = Field(default=False, description="hand on a candidate, too, that needs another step")
    max_anchor_loss: float = Field(default=ANCHOR_LOSS, ge=0, le=1, description="largest tolerated loss on the anchors")


PARENTS = {
    "candidate": ParentSpec(Kind.POLICY, help="the policy that the step made"),
    "best": ParentSpec(Kind.POLICY, help="the best policy so far"),
    "evaluations": ParentSpec(Kind.EVALUATION, most=8, help="of both policies, same problems"),
    "anchors_first": ParentSpec(Kind.EVALUATION, required=False, help="the first round's, on what must not get worse"),
    "anchors": ParentSpec(Kind.EVALUATION, required=False, help="the candidate's, on the same anchors"),
}


def check(settings: KeepSettings, parents: Parents) -> None:
    """Both policies must have been measured, and alike."""
    comparable(*(Conditions.recorded(_evaluation(role, parents).record) for role in ("best", "candidate")))
    first, anchors = parents.maybe("anchors_first"), parents.maybe("anchors")
    if first and anchors:
        comparable(Conditions.recorded(first.record), Conditions.recorded(anchors.record))


def _evaluation(role: str, parents: Parents) -> Artifact:
    digest = parents.one(role).digest
    found = evaluation_of(digest, parents.all("evaluations"))
    if found is None:
        raise ContractError(f"keep: no evaluation is of the {role} policy ({digest[:12]}); evaluate it first")
    return found


def run(settings: KeepSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Judge, and hand one of the two on with its own record."""
    from posttrain.report.keep import keep_blocks

    candidate, best = parents.one("candidate"), parents.one("best")
    if candidate.digest == best.digest:
        shutil.copytree(best.path, out, dirs_exist_ok=True)
        return Work(made=best.record, blocks=keep_blocks(candidate.record.name, None, None))
    before, after = (read_evaluation(_evaluation(role, parents).path) for role in ("best", "candidate"))
    first, anchors = parents.maybe("anchors_first"), parents.maybe("anchors")
    judged = judge(
        before,
        after,
        candidate.record.role,
        (read_evaluation(first.path), read_evaluation(anchors.path)) if first and anchors else None,
        breadth=settings.breadth,
        anchor_loss=settings.max_anchor_loss,
        seed=settings.seed,
    )
    fates = (Fate.KEPT, Fate.PROVISIONAL) if settings.provisional else (Fate.KEPT,)
    chosen = candidate if judged.fate in fates else best
    shutil.copytree(chosen.path, out, dirs_exist_ok=True)
    progress.update(1, 1, f"{judged.fate}: {judged.reason}")
    blocks = keep_blocks(candidate.record.name, judged, compare(before, after, seed=settings.seed))
    return Work(made=chosen.record, blocks=blocks)


STAGE = Stage(
    name="keep",
    output="policy",
    makes=Kind.POLICY,
    parents=PARENTS,
    settings=KeepSettings,
    run=run,
    check=check,
    image="control",
    size=lambda parents: max(size_of(parents.one(role)) for role in ("candidate", "best")),
)
