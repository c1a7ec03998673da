"""Distillation: a student learns from a teacher's answers, from its distributions, or from itself with more context.

1. `on_policy_distillation` (default): the student samples, every token is compared with the teacher's distribution
   by a generalised Jensen–Shannon divergence (2306.13649, eq. 2); `trl.DistillationTrainer`. On-policy.
2. `gkd`: a share of its batches are the student's rollouts, the others fixed completions (`training.mixing`). Mixed.
3. `self_distillation`: as 1, but the teacher is the student itself, shown a demonstration (`training.privileged`).
4. `sequence_distillation`: supervised learning on trajectories that a teacher sampled (1606.07947). Off-policy, and
   every row must name one of the teachers as its sampler.
5. `logit_distillation`: supervised by a teacher's stored distributions (`training.stored_logits`). Off-policy.
With several teachers, `routes` says which one supervises the problems of a slice (`training.teachers`).
Where logits are compared, teachers and student must share tokenizer, chat template and EOS tokens; a teacher whose
texts alone are learned from (4) may have others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from posttrain.components.distill import contract
from pydantic import Field, PositiveInt

from posttrain.artifacts import provenance, topk
from posttrain.artifacts.contracts import size_of
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ConfigError, ContractError
from posttrain.progress import Progress
from posttrain.settings import changed
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind
from posttrain.training.arguments import check_trainer_args
from posttrain.training.settings import TrainSettings
from posttrain.training.supervised import supervised

# Interpolation β of the divergence (2306.13649): 0 is the forward KL(teacher ‖ student), 1 the reverse.
_BETA = {"forward": 0.0, "jsd": 0.5, "reverse": 1.0}


@dataclass(frozen=True)
class _Method:
    """What a method takes: parents beside `init` (whether each must be there), and settings that only some use."""

    config: str  # of TRL
    parents: dict[str, bool]
    options: frozenset[str]
    check: Callable[[DistillSettings, Parents], None]
    run: Callable[[DistillSettings, Parents, Path, Progress], Work]


class DistillSettings(TrainSettings):
    """Distillation."""

    method: Literal[
        "on_policy_distillation", "gkd", "self_distillation", "sequence_distillation", "logit_distillation"
    ] = Field(default="on_policy_distillation", description="what is learned from, and on whose tokens")
    divergence: Literal["forward", "jsd", "reverse"] = Field(
        default="reverse", description="forward keeps coverage, reverse sharpens (on rollouts)"
    )
    max_new_tokens: int = Field(default=512, gt=0, description="longest rollout, in tokens")
    temperature: float = Field(default=1.0, gt=0, description="of sampling and of the divergence")
    max_length: int = Field(default=1024, gt=0, description="longest sequence in tokens (of fixed trajectories)")
    max_truncated: float = Field(default=0.05, ge=0, le=1, description="largest share of rows cut at max_length")
    slices: list[str] = Field(default_factory=list, description="only problems of these slices; empty = all")
    routes: dict[str, PositiveInt] = Field(
        default_factory=dict, description="slice → number of its teacher (on rollouts); empty = the first for all"
    )
    on_policy_share: float = Field(default=0.5, ge=0, le=1, description="gkd: share of batches that are rollouts")
    hard_weight: float = Field(
        default=0.0, ge=0, le=1, description="logit_distillation: weight of the rows' own tokens, beside the teacher's"
    )
    rest: Literal["bucket", "renormalise"] = Field(
        default="bucket",
        description="logit_distillation: tokens not stored count as one, or are left out on both sides",
    )
    teacher_update: float = Field(
        default=0.0, ge=0, le=1, description="self_distillation: the teacher's step to the student; 0 = stays as init"
    )
    teacher_prompt: str = Field(
        default="{prompt}\n\n{demonstration}", description="self_distillation: what the teacher sees"
    )
    max_staleness: int = Field(default=0, ge=0, description="optimizer steps after which a rollout is not on-policy")
    accept_differences: list[Literal["tokenizer", "chat_template", "eos"]] = Field(
        default_factory=list, description="differences between student and teacher that you accept"
    )


PARENTS = {
    "init": ParentSpec(Kind.POLICY, help="the student"),
    "teacher": ParentSpec(
        Kind.POLICY, most=8, required=False, shared=True, awaited=True, help="the policy to learn from, or several"
    ),
    "problems": ParentSpec(Kind.PROBLEMS, required=False, help="prompts for the student's rollouts (on-policy)"),
    "data": ParentSpec(
        Kind.TRAJECTORIES, required=False, help="the teachers' trajectories, stored logits, or demonstrations"
    ),
}


def check_settings(settings: DistillSettings) -> None:
    """Settings that the method has no use for are mistakes."""
    method, chosen = settings.method, _METHODS[settings.method]
    optional = set().union(*(each.options for each in _METHODS.values()))
    for name in sorted(changed(settings) & optional - chosen.options):
        value = getattr(settings, name)
        users = ", ".join(other for other, each in _METHODS.items() if name in each.options)
        raise ConfigError(f"distill: {name}={value} with method={method}; leave {name} out, or use {users}")
    if settings.temperature != 1 and settings.rest == "bucket" and method == "logit_distillation":
        raise ConfigError(
            f"distill: temperature={settings.temperature} with rest=bucket: what the teacher's other tokens come to is "
            "known at temperature 1 only; set rest=renormalise"
        )
    if missing := [part for part in ("{prompt}", "{demonstration}") if part not in settings.teacher_prompt]:
        raise ConfigError(f"distill: teacher_prompt={settings.teacher_prompt!r} lacks {' and '.join(missing)}")
    check_trainer_args(chosen.config, settings)


def check(settings: DistillSettings, parents: Parents) -> None:
    """The method must have its parents and no others; where logits are compared, these must read texts alike."""
    method = settings.method
    for role, spec in PARENTS.items():
        needed = _METHODS[method].parents.get(role)
        if needed and not parents.all(role):
            raise ContractError(f"distill: method={method} needs a parent {role!r}: {spec.help}")
        if needed is None and parents.all(role) and role != "init":
            users = ", ".join(name for name, each in _METHODS.items() if role in each.parents)
            raise ContractError(
                f"distill: method={method} has no use for a parent {role!r}; leave it out, or use {users}"
            )
    _METHODS[method].check(settings, parents)


def _online(settings: DistillSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    from trl import DistillationConfig

    from posttrain.training.arguments import trainer_config
    from posttrain.training.online import prompt_dataset, trace_of
    from posttrain.training.ranks import summed
    from posttrain.training.run import train, trainer_scratch

    init, teachers = parents.one("init"), parents.all("teacher") or [parents.one("init")]
    problems = contract.prompts(settings, parents)
    trainer_class, own, columns, counts = _trainer(settings, parents)
    with trainer_scratch() as scratch:
        config = trainer_config(
            DistillationConfig,
            settings,
            scratch,
            beta=_BETA[settings.divergence],
            max_completion_length=settings.max_new_tokens,
            temperature=settings.temperature,
        )
        routes = contract.routed(problems, settings.routes, len(teachers))
        data = prompt_dataset(problems, teacher=routes, **columns)
        paths = [str(teacher.path) for teacher in teachers]
        trainer, work = train(trainer_class, config, data, settings, init, out, progress, teacher_model=paths, **own)
    sampled = trace_of(trainer, init.digest, settings.max_staleness)
    work.trace = provenance.mixed(sampled, getattr(trainer, "fixed", {}), init.digest)
    work.counts = {"problems": len(problems), "rollouts": sampled.rows, **counts}
    if len(teachers) > 1:
        routed = sorted(summed(trainer.routed).items())
        work.counts |= {f"rollouts_teacher_{index + 1}": count for index, count in routed}
    return work


def _trainer(
    settings: DistillSettings, parents: Parents
) -> tuple[type, dict[str, Any], dict[str, list[Any]], dict[str, int]]:
    """An online method's trainer, its own arguments, its columns of the data set, and what was counted on the way."""
    from trl import DistillationTrainer

    from posttrain.generation.tokenizer import load_tokenizer
    from posttrain.training import mixing, privileged
    from posttrain.training.online import measuring
    from posttrain.training.teachers import RoutesTeachers
    from posttrain.training.tokens import cut_completions
    from posttrain.training.truncation import refuse_cut

    if settings.method == "self_distillation":
        bases = (RoutesTeachers, privileged.SeesDemonstrations, DistillationTrainer)
        columns = {privileged.COLUMN: [problem.prompt for problem in contract.shown(settings, parents)]}
        return measuring(type("Trainer", bases, {})), {"teacher_update": settings.teacher_update}, columns, {}
    routing = measuring(type("Trainer", (RoutesTeachers, DistillationTrainer), {}))
    if settings.method != "gkd":
        return routing, {}, {}, {}
    rows = read_trajectories(parents.one("data").path)
    encoded, lengths = cut_completions(load_tokenizer(parents.one("init").path), rows, settings.max_new_tokens)
    cut = refuse_cut(lengths, settings.max_new_tokens, settings.max_truncated, "max_new_tokens")
    columns = {
        mixing.IDS: [row.ids for row in encoded],
        mixing.START: [row.start for row in encoded],
        mixing.SAMPLER: [row.get("sampler") or "" for row in rows],
    }
    mixed = type("Trainer", (mixing.MixesFixed, routing), {})
    return mixed, {"on_policy_share": settings.on_policy_share}, columns, {"truncated": cut}


def _sequences(settings: DistillSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    init, data = parents.one("init"), parents.one("data")
    return supervised(settings, init, data, {"max_length": settings.max_length}, settings.max_truncated, out, progress)


def _stored(settings: DistillSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    from trl import SFTConfig, SFTTrainer

    from posttrain.generation.tokenizer import load_tokenizer
    from posttrain.training.arguments import trainer_config
    from posttrain.training.run import train, trainer_scratch
    from posttrain.training.stored_logits import Collator, LearnsStoredLogits, taught_rows
    from posttrain.training.truncation import refuse_cut

    init, data = parents.one("init"), parents.one("data")
    rows, tokenizer = read_trajectories(data.path), load_tokenizer(init.path)
    dataset, lengths = taught_rows(tokenizer, rows, int(data.record.facts["max_length"]), settings.max_length)
    cut = refuse_cut(lengths, settings.max_length, settings.max_truncated)
    with trainer_scratch() as scratch:
        config = trainer_config(
            SFTConfig,
            settings,
            scratch,
            max_length=settings.max_length,
            packing=False,
            padding_free=False,
            loss_type="nll",
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        _, work = train(
            type("Trainer", (LearnsStoredLogits, SFTTrainer), {}),
            config,
            dataset,
            settings,
            init,
            out,
            progress,
            data_collator=Collator(tokenizer.pad_token_id, topk.TopK(data.path, [row[topk.COLUMN] for row in rows])),
            hard_weight=settings.hard_weight,
            temperature=settings.temperature,
            bucket=settings.rest == "bucket",
        )
    work.trace = provenance.offline((rows[index].get("sampler") for index in dataset["row"]), init.digest)
    work.facts |= {"taught_by": data.record.facts["teacher"]}
    work.counts = {"rows": len(rows), "truncated": cut, "without_completion": len(rows) - len(dataset)}
    return work


_ROLLOUTS = {"divergence", "temperature", "max_staleness"}
_METHODS = {
    "on_policy_distillation": _Method(
        config="DistillationConfig",
        parents={"teacher": True, "problems": True},
        options=frozenset({*_ROLLOUTS, "routes", "slices"}),
        check=contract.check_online,
        run=_online,
    ),
    "gkd": _Method(
        config="DistillationConfig",
        parents={"teacher": True, "data": True},
        options=frozenset({*_ROLLOUTS, "routes", "on_policy_share"}),
        check=contract.check_online,
        run=_online,
    ),
    "self_distillation": _Method(
        config="DistillationConfig",
        parents={"data": True},
        options=frozenset({*_ROLLOUTS, "teacher_update", "teacher_prompt"}),
        check=contract.check_online,
        run=_online,
    ),
    "sequence_distillation": _Method(
        config="SFTConfig",
        parents={"teacher": True, "data": True},
        options=frozenset(),
        check=contract.check_sequences,
        run=_sequences,
    ),
    "logit_distillation": _Method(
        config="SFTConfig",
        parents={"teacher": False, "data": True},
        options=frozenset({"temperature", "hard_weight", "rest"}),
        check=contract.check_stored,
        run=_stored,
    ),
}

STAGE = Stage(
    name="distill",
    output="policy",
    makes=Kind.POLICY,
    parents=PARENTS,
    settings=DistillSettings,
    run=lambda settings, *rest: _METHODS[settings.method].run(settings, *rest),
    check_settings=check_settings,
    check=check,
    method=lambda settings: settings.method,
    size=lambda parents: 2 * size_of(parents.one("init")),
)
