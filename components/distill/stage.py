"""Distillation: a student learns from one teacher or several, on its own rollouts or on the teachers'.

1. `on_policy_distillation` (default): the student samples, every token is compared with the teacher's distribution
   by a generalised Jensen–Shannon divergence (2306.13649, eq. 2); `trl.DistillationTrainer`. On-policy.
2. `sequence_distillation`: supervised learning on trajectories that a teacher sampled (1606.07947). Off-policy, and
   every row must name one of the teachers as its sampler.
3. With several teachers on-policy, `routes` says which one supervises the problems of a slice
   (`posttrain.training.teachers`): specialists become one policy.
Teachers and student must share tokenizer, chat template and EOS tokens: logits are compared token by token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from posttrain.components.sft.stage import check_rows, supervised
from pydantic import Field, PositiveInt

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import agree_on_text, size_of
from posttrain.artifacts.problems import Problem, read_problems
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ConfigError, ContractError, ProvenanceError
from posttrain.generation.prompts import check_prompts_fit
from posttrain.progress import Progress
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind
from posttrain.training.arguments import check_trainer_args
from posttrain.training.hardware import global_batch
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
    routes: dict[str, PositiveInt] = Field(
        default_factory=dict, description="slice → number of its teacher (on-policy); empty = the first for all"
    )
    max_staleness: int = Field(default=0, ge=0, description="optimizer steps after which a rollout is not on-policy")
    accept_differences: list[Literal["tokenizer", "chat_template", "eos"]] = Field(
        default_factory=list, description="differences between student and teacher that you accept"
    )


PARENTS = {
    "init": ParentSpec(Kind.POLICY, help="the student"),
    "teacher": ParentSpec(Kind.POLICY, most=8, shared=True, help="the policy to learn from, or several"),
    "problems": ParentSpec(Kind.PROBLEMS, required=False, help="prompts for the student's rollouts (on-policy)"),
    "data": ParentSpec(Kind.TRAJECTORIES, required=False, help="the teachers' trajectories (sequence-level)"),
}


def check_settings(settings: DistillSettings) -> None:
    """Routes are for rollouts: fixed trajectories have their sampler."""
    if settings.routes and settings.method != "on_policy_distillation":
        raise ConfigError(f"distill: routes={settings.routes} with method={settings.method}; leave routes out")
    check_trainer_args(_CONFIG[settings.method], settings)


def check(settings: DistillSettings, parents: Parents) -> None:
    """Student and teachers must read and end texts alike; the method must have its data."""
    init, teachers = parents.one("init"), parents.all("teacher")
    names = [f"teacher_{number}" for number in range(1, len(teachers) + 1)] if len(teachers) > 1 else ["teacher"]
    for name, teacher in zip(names, teachers, strict=True):
        agree_on_text(init, teacher, ("init", name), settings.accept_differences)
    if settings.method == "on_policy_distillation":
        problems = read_problems(_needs(parents, "problems", settings.method).path, settings.slices)
        enough_prompts(len(problems), global_batch(settings))
        check_prompts_fit(init, problems, settings.max_new_tokens)
        routed(problems, settings.routes, len(teachers))
        for name, teacher in zip(names, teachers, strict=True):
            _same_vocabulary(init, teacher, name)
        return
    data = _needs(parents, "data", settings.method)
    rows = read_trajectories(data.path)
    check_rows(data.record.facts.get("shape"), init.record.facts.get("chat_template"), rows)
    digests = [teacher.digest for teacher in teachers]
    foreign = sum(row.get("sampler") not in digests for row in rows)
    if foreign and settings.accept_provenance != "off-policy":
        raise ProvenanceError(
            f"distill: {foreign} of {len(rows)} rows were not sampled by the teacher "
            f"({', '.join(digest[:12] for digest in digests)}); give the teacher's rollouts, or accept others with "
            "accept_provenance=off-policy"
        )


def routed(problems: list[Problem], routes: dict[str, int], teachers: int) -> list[int]:
    """The index of each problem's teacher.

    Raises:
        ContractError: with several teachers a slice has none, or a route leads to a teacher that is not there.
    """
    for name, number in routes.items():
        if number > teachers:
            raise ContractError(
                f"distill: routes.{name}={number}, but there are {teachers} teachers; number them from 1"
            )
    missing = sorted({problem.slice for problem in problems} - routes.keys())
    if missing and teachers > 1:
        raise ContractError(
            f"distill: {teachers} teachers, but routes has none for {', '.join(missing)}; give every slice the number "
            "of its teacher"
        )
    return [routes.get(problem.slice, 1) - 1 for problem in problems]


def _same_vocabulary(init: Artifact, teacher: Artifact, name: str) -> None:
    mine, theirs = (policy.record.facts.get("vocabulary") for policy in (init, teacher))
    if mine != theirs:
        raise ContractError(
            f"distill: {name} predicts {theirs} tokens, init {mine}; use policies of one vocabulary (padding of the "
            "embeddings included), or method=sequence_distillation"
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
    from posttrain.training.ranks import summed
    from posttrain.training.run import train, trainer_scratch
    from posttrain.training.teachers import RoutesTeachers

    teachers = [str(teacher.path) for teacher in parents.all("teacher")]
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
        trainer, work = train(
            measuring(type("DistillationTrainer", (RoutesTeachers, DistillationTrainer), {})),
            config,
            prompt_dataset(problems, teacher=routed(problems, settings.routes, len(teachers))),
            settings,
            init,
            out,
            progress,
            teacher_model=teachers,
        )
    work.trace = trace_of(trainer, init.digest, settings.max_staleness)
    work.counts = {"problems": len(problems), "rollouts": work.trace.rows}
    if len(teachers) > 1:
        work.counts |= {
            f"rollouts_teacher_{index + 1}": count for index, count in sorted(summed(trainer.routed).items())
        }
    return work


STAGE = Stage(
    name="distill",
    output="policy",
    makes=Kind.POLICY,
    parents=PARENTS,
    settings=DistillSettings,
    run=run,
    check_settings=check_settings,
    check=check,
    method=lambda settings: settings.method,
    size=lambda parents: 2 * size_of(parents.one("init")),
)
