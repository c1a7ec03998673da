"""Preference optimisation: what was preferred becomes likelier than what was not, on a fixed batch.

DPO (2305.18290, eq. 7) minimises −log σ(β [log π/π_ref (chosen) − log π/π_ref (rejected)]); the other methods change
this loss. What this is, and is not:

1. Off-policy whoever sampled the pairs, also the policy itself.
2. `trl.DPOTrainer`, `trl.KTOTrainer` and two experimental trainers do the work; a method is a row of `_VARIANTS`,
   nothing else differs. The reference is `init`, reloaded from disk, unless a parent `reference` is given.
3. KTO (2402.01306) learns from single answers, each labelled good or bad; pairs are taken apart into such.
   It compares a row with its neighbours' answers and takes rows in order, so they are shuffled first.
4. SimPO, CPO and ORPO have no reference; nothing holds them near `init` but the learning rate.
5. Rows longer than `max_length` are cut by TRL, and left out where the prompt alone is: both are counted, and an error
   above a share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from posttrain.artifacts import provenance
from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import agree_on_text, renders, size_of
from posttrain.artifacts.rows import Row
from posttrain.artifacts.trajectories import SHAPES, read_trajectories, samplers
from posttrain.errors import ConfigError, ContractError
from posttrain.progress import Progress
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind
from posttrain.training.arguments import check_trainer_args
from posttrain.training.settings import TrainSettings
from posttrain.training.trl_classes import trl_class

PreferenceMethod = Literal[
    "dpo", "ipo", "slic", "robust_dpo", "exo", "nca", "bco", "aot", "apo_zero", "apo_down", "wpo", "rpo",
    "mpo", "kto", "simpo", "cpo", "orpo",
]  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A published method in TRL's words; `trainer_args` may override any of `arguments`."""

    arguments: dict[str, Any]
    trainer: str = "DPO"  # TRL's class without its last word
    beta: float = 0.1
    shapes: Sequence[str] = ("preference",)
    reference: bool = True


# TRL's stable trainers keep their weights in float32; these two would train a bfloat16 policy in bfloat16.
_FLOAT32 = {"model_init_kwargs": {"dtype": "float32", "device_map": None}}


def _cpo(beta: float = 0.1, **arguments: Any) -> Variant:
    return Variant(_FLOAT32 | arguments, "experimental.cpo.CPO", beta, reference=False)


_VARIANTS: dict[str, Variant] = {
    "dpo": Variant({"loss_type": ["sigmoid"]}),
    "ipo": Variant({"loss_type": ["ipo"]}),
    "slic": Variant({"loss_type": ["hinge"]}),
    # The share of flipped preferences that the paper assumes, and exo's smoothing, are the papers' usual.
    "robust_dpo": Variant({"loss_type": ["robust"], "label_smoothing": 0.1}),
    "exo": Variant({"loss_type": ["exo_pair"], "label_smoothing": 1e-3}),
    "nca": Variant({"loss_type": ["nca_pair"]}),
    "bco": Variant({"loss_type": ["bco_pair"]}),
    "aot": Variant({"loss_type": ["aot"]}),
    "apo_zero": Variant({"loss_type": ["apo_zero"]}),
    "apo_down": Variant({"loss_type": ["apo_down"]}),
    "wpo": Variant({"loss_type": ["sigmoid"], "use_weighting": True}),
    "rpo": Variant({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}),
    "mpo": Variant({"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}),
    "kto": Variant({}, "KTO", shapes=("unpaired", "preference")),
    # The paper's β, and its target margin of half of it.
    "simpo": _cpo(2.0, loss_type="simpo", simpo_gamma=1.0, cpo_alpha=0.0),
    "cpo": _cpo(loss_type="sigmoid"),
    "orpo": Variant(_FLOAT32, "experimental.orpo.ORPO", reference=False),
}


# Arguments that TRL takes with any method of a trainer, and reads with these alone.
_ONLY_FOR = {
    "label_smoothing": ("robust_dpo", "exo", "aot", "cpo", "simpo"),
    "simpo_gamma": ("simpo",),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
}


class PreferenceSettings(TrainSettings):
    """Preference optimisation."""

    method: PreferenceMethod = Field(default="dpo", description="the published loss")
    epochs: float = Field(default=1.0, gt=0, description="passes over the data; more overfit")
    beta: float = Field(
        default=0.0, ge=0, description="how strongly it is held to the reference; 0 = usual: 0.1, simpo 2"
    )
    max_length: int = Field(default=1024, gt=0, description="longest prompt and completion in tokens")
    max_truncated: float = Field(default=0.05, ge=0, le=1, description="largest share of rows cut at max_length")
    accept_differences: list[Literal["chat_template", "eos"]] = Field(
        default_factory=list, description="differences between init and reference that you accept"
    )

    @property
    def counts_by_device(self) -> bool:
        """KTO compares a row with its neighbours in `batch_size`."""
        return self.method == "kto" or super().counts_by_device


PARENTS = {
    "init": ParentSpec(Kind.POLICY, help="the policy to start from, and the reference unless another is given"),
    "data": ParentSpec(Kind.TRAJECTORIES, help="rows with prompt, chosen, rejected; for kto also completion, label"),
    "reference": ParentSpec(Kind.POLICY, required=False, help="the policy to stay close to, if not init"),
}


def check_settings(settings: PreferenceSettings) -> None:
    """TRL must know the arguments, and KTO needs neighbours."""
    if settings.method == "kto" and settings.batch_size < 2:
        raise ConfigError("preference: batch_size=1 with method=kto, which compares rows of a batch; give at least 2")
    for argument, methods in _ONLY_FOR.items():
        if argument in settings.trainer_args and settings.method not in methods:
            raise ConfigError(
                f"preference: trainer_args.{argument} does nothing with method={settings.method}; it is for "
                f"{', '.join(methods)}"
            )
    _refuse_disguise(settings)
    check_trainer_args(f"{_VARIANTS[settings.method].trainer}Config", settings)


def _refuse_disguise(settings: PreferenceSettings) -> None:
    """A loss that has a name here goes by it: the record tells the method, not the arguments.

    Raises:
        ConfigError: `trainer_args` turn the method into another one.
    """
    mine = _VARIANTS[settings.method]
    asked = settings.trainer_args.get("loss_type")
    loss = [asked] if isinstance(asked, str) and mine.trainer == "DPO" else asked
    for name, variant in _VARIANTS.items():
        another = name != settings.method and variant.trainer == mine.trainer
        if another and loss and variant.arguments.get("loss_type") == loss != mine.arguments.get("loss_type"):
            raise ConfigError(f"preference: trainer_args.loss_type={asked} is method={name}; choose it by that name")


def check(settings: PreferenceSettings, parents: Parents) -> None:
    """The rows must be what the method learns from, and the reference must read them as the policy does."""
    init, data, reference = parents.one("init"), parents.one("data"), parents.maybe("reference")
    variant, shape = _VARIANTS[settings.method], data.record.facts.get("shape")
    if shape not in variant.shapes:
        wanted = " or ".join(f"{s.name} ({', '.join(s.columns)})" for s in SHAPES if s.name in variant.shapes)
        raise ContractError(f"preference: data has shape {shape!r}; method={settings.method} learns from {wanted} rows")
    rows = read_trajectories(data.path)
    if not rows:
        raise ContractError("preference: data has no rows")
    renders(init.record.facts.get("chat_template"), rows[0]["prompt"], "preference")
    if shape == "unpaired":
        _both_labels(rows)
    if reference and not variant.reference:
        raise ContractError(f"preference: method={settings.method} has no reference; leave the parent 'reference' out")
    if reference:
        agree_on_text(init, reference, ("init", "reference"), settings.accept_differences)


def _both_labels(rows: list[Row]) -> None:
    labels = [row["label"] for row in rows]
    odd = next((number for number, label in enumerate(labels, start=1) if label not in (True, False)), None)
    if odd:
        raise ContractError(
            f"preference: data row {odd} has label={labels[odd - 1]!r}; give true (good) or false (bad)"
        )
    if len(set(labels)) < 2:
        raise ContractError(
            f"preference: every label of data is {labels[0]}, so nothing is preferred; add rows of the other label, "
            "or learn from the good ones with sft"
        )


def run(settings: PreferenceSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Train and write the policy."""
    from posttrain.training.arguments import trainer_config
    from posttrain.training.run import train, trainer_scratch

    variant, init, reference = _VARIANTS[settings.method], parents.one("init"), parents.maybe("reference")
    trajectories = read_trajectories(parents.one("data").path)
    rows, counts = fitting(trajectories, init, settings.max_length, settings.max_truncated)
    with trainer_scratch() as scratch:
        config = trainer_config(
            trl_class(f"{variant.trainer}Config"),
            settings,
            scratch,
            beta=settings.beta or variant.beta,
            max_length=settings.max_length,
            **{name: value for name, value in variant.arguments.items() if name not in settings.trainer_args},
        )
        more = {"ref_model": _load_reference(reference, config)} if reference else {}
        data = learned_from(rows, variant, settings.seed)
        trainer = trl_class(f"{variant.trainer}Trainer")
        _, work = train(trainer, config, data, settings, init, out, progress, **more)
    if settings.method == "kto":
        counts |= {"desirable": sum(data["label"]), "undesirable": len(data) - sum(data["label"])}
    work.trace = provenance.offline((sampler for row in rows for sampler in samplers(row)), init.digest)
    work.counts = counts
    return work


def fitting(rows: list[Row], init: Artifact, max_length: int, max_truncated: float) -> tuple[list[Row], dict[str, int]]:
    """The rows whose prompt leaves room for a completion, and the counts: all, those too long, those left out of them.

    TRL's stable trainers leave the same rows out, without a word; its experimental ones would learn from empty answers.

    Raises:
        ContractError: more than a share `max_truncated` of them are over `max_length` tokens, or no prompt leaves room.
    """
    from posttrain.generation.tokenizer import load_tokenizer, render_all
    from posttrain.training.truncation import count_truncated

    tokenizer = load_tokenizer(init.path)
    texts = [{name: row[name] for name in _columns(row) if name != "label"} for row in rows]
    over = count_truncated(texts, tokenizer, max_length, int(init.record.facts.get("context", 0)), max_truncated)
    prompts = render_all(tokenizer, [row["prompt"] for row in rows])
    kept = [row for row, prompt in zip(rows, prompts, strict=True) if len(prompt) < max_length]
    dropped = len(rows) - len(kept)
    if not kept:
        raise ContractError(f"preference: every prompt of data has max_length={max_length} tokens or more; raise it")
    return kept, {"rows": len(rows), "truncated": over, "dropped": dropped}


def learned_from(rows: list[Row], variant: Variant, seed: int) -> Any:
    """The rows as the trainer's `datasets.Dataset`."""
    from posttrain.training.run import to_dataset

    columns = _columns(rows[0])
    if variant.trainer != "KTO":
        return to_dataset(rows, columns)
    if "chosen" in columns:
        rows = [
            {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
            for row in rows
            for side in ("chosen", "rejected")
        ]
    return to_dataset(rows, ("prompt", "completion", "label")).shuffle(seed=seed)


def _columns(row: Row) -> Sequence[str]:
    return ("prompt", "chosen", "rejected") if "chosen" in row else ("prompt", "completion", "label")


def _load_reference(reference: Artifact, config: Any) -> Any:
    """The reference as TRL would load it from `init`."""
    from transformers import AutoModelForCausalLM

    arguments = {"dtype": "float32"} | (config.model_init_kwargs or {})
    return AutoModelForCausalLM.from_pretrained(reference.path, use_safetensors=True, **arguments)


STAGE = Stage(
    name="preference",
    output="policy",
    makes=Kind.POLICY,
    parents=PARENTS,
    settings=PreferenceSettings,
    run=run,
    check_settings=check_settings,
    check=check,
    method=lambda settings: settings.method,
    size=lambda parents: 2 * size_of(parents.one("init")),
)
