"""Distillation: a student learns from a teacher, on its own rollouts or on the teacher's.

1. `on_policy_distillation` (default): the student samples, every token is compared with the teacher's distribution
   by a generalised Jensen–Shannon divergence (2306.13649, eq. 2); `trl.DistillationTrainer`. On-policy.
2. `sequence_distillation`: supervised learning on trajectories that the teacher sampled (1606.07947). Off-policy, and
   every row must name the teacher as its sampler.
Teacher and student must share tokenizer, chat template and EOS tokens: logits are compared token by token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from posttrain.components.sft.stage import check_rows, supervised
from pydantic import Field

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import agree_on_text, size_of
from posttrain.artifacts.problems import read_problems
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ContractError, ProvenanceError
from posttrain.generation.prompts import check_prompts_fit
from posttrain.progress import Progress
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind
from posttrain.training.arguments import check_trainer_args
from posttrain.training.online import enough_prompts
from posttrain.training.settings import TrainSettings

# Interpolation β of the divergence (2306.13649): 0 is the forward KL(teacher ‖ student), 1 the reverse.
_BETA = {"forward": 0.0, "jsd": 0.5, "reverse": 1.0}

_CONFIG = {"on_policy_distillation": "DistillationConfig", "sequence_distillation": "SFTConfig"}


class DistillSettings(TrainSettings):
    """Distillation."""

    method: Literal["on_policy_distillation", "sequence_distillation"] = Field(
        default="on_policy_distillation", description="on the student's rollouts, or on trajectories of the teacher"
    )
    divergence: Literal["forward", "jsd", "reverse"] = Field(
        default="reverse", description="forward keeps coverage, reverse sharpens (on-policy only)"
    )
    max_new_tokens: int = Field(default=512, gt=0, description="longest rollout, in tokens")
    temperature: float = Field(default=1.0, gt=0, description="of sampling and of the divergence")
    max_length: int = Field(default=1024, gt=0, description="longest sequence in tokens (sequence-level only)")
    max_truncated: float = Field(default=0.05, ge=0, le=1, description="largest share of rows cut at max_length")
    slices: list[str] = Field(default_factory=list, description="only problems of these slices; empty = all")
    max_staleness: int = Field(default=0, ge=0, description="optimizer steps after which a rollout is not on-policy")
    accept_differences: list[Literal["tokenizer", "chat_template", "eos"]] = Field(
        default_factory=list, description="differences between student and teacher that you accept"
    )


PARENTS = {
    "init": ParentSpec(Kind.POLICY, help="the student"),
    "teacher": ParentSpec(Kind.POLICY, help="the policy to learn from"),
    "problems": ParentSpec(Kind.PROBLEMS, required=False, help="prompts for the student's rollouts (on-policy)"),
    "data": ParentSpec(Kind.TRAJECTORIES, required=False, help="the teacher's trajectories (sequence-level)"),
}


def check(settings: DistillSettings, parents: Parents) -> None:
    """Student and teacher must read and end texts alike; the method must have its data."""
    init, teacher = parents.one("init"), parents.one("teacher")
    agree_on_text(init, teacher, ("init", "teacher"), settings.accept_differences)
    if settings.method == "on_policy_distillation":
        problems = read_problems(_needs(parents, "problems", settings.method).path, settings.slices)
        enough_prompts(len(problems), settings.batch_size * settings.accumulation)
        check_prompts_fit(init, problems, settings.max_new_tokens)
        return
    data = _needs(parents, "data", settings.method)
    rows = read_trajectories(data.path)
    check_rows(data.record.facts.get("shape"), init.record.facts.get("chat_template"), rows)
    foreign = sum(row.get("sampler") != teacher.digest for row in rows)
    if foreign and settings.accept_provenance != "off-policy":
        raise ProvenanceError(
            f"distill: {foreign} of {len(rows)} rows were not sampled by the teacher ({teacher.digest[:12]}); give the "
            "teacher's rollouts, or accept others with accept_provenance=off-policy"
        )


def _needs(parents: Parents, role: str, method: str) -> Artifact:
    parent = parents.maybe(role)
    if parent is None:
        raise ContractError(f"distill: method={method} needs a parent {role!r}: {PARENTS[role].help}")
    return parent


def run(settings: DistillSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Train the student and write it."""
    if settings.method == "on_policy_distillation":
        return _on_policy(settings, parents, out, progress)
    init, data = parents.one("init"), parents.one("data")
    return supervised(settings, init, data, {"max_length": settings.max_length}, settings.max_truncated, out, progress)


def _on_policy(settings: DistillSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    from trl import DistillationConfig, DistillationTrainer

    from posttrain.training.arguments import trainer_config
    from posttrain.training.online import measuring, prompt_dataset, trace_of
    from posttrain.training.run import train, trainer_scratch

    init, problems = parents.one("init"), read_problems(parents.one("problems").path, settings.slices)
    with trainer_scratch() as scratch:
        config = trainer_config(
            DistillationConfig,
            settings,
            scratch,
            beta=_BETA[settings.divergence],
            max_completion_length=settings.max_new_tokens,
            temperature=settings.temperature,
        )
        teacher = str(parents.one("teacher").path)
        trainer, work = train(
            measuring(DistillationTrainer),
            config,
            prompt_dataset(problems),
            settings,
            init,
            out,
            progress,
            teacher_model=teacher,
        )
    work.trace = trace_of(trainer, init.digest, settings.max_staleness)
    work.counts = {"problems": len(problems), "rollouts": work.trace.rows}
    return work


STAGE = Stage(
    name="distill",
    output="policy",
    makes=Kind.POLICY,
    parents=PARENTS,
    settings=DistillSettings,
    run=run,
    check_settings=lambda settings: check_trainer_args(_CONFIG[settings.method], settings),
    check=check,
    method=lambda settings: settings.method,
    size=lambda parents: 2 * size_of(parents.one("init")),
)
