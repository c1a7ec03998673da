"""The settings of RL, and what they show to be wrong before anything is read."""

from __future__ import annotations

from typing import Literal

from posttrain.components.rl.plan import Curriculum
from posttrain.components.rl.variants import BATCHWISE, VARIANTS, Name, Variant
from pydantic import Field

from posttrain.errors import ConfigError
from posttrain.settings import changed
from posttrain.training.arguments import check_trainer_args
from posttrain.training.rewards import RewardSettings, check_reward_settings
from posttrain.training.settings import TrainSettings


class RLSettings(TrainSettings, RewardSettings):
    """Reinforcement learning."""

    method: Name = Field(default="grpo", description="the published variant")
    group_size: int = Field(default=8, gt=1, description="completions a prompt, the group that advantages compare")
    kl: float = Field(default=0.0, ge=0, description="weight β of the KL term towards the reference")
    reference_reset_steps: int = Field(
        default=0, ge=0, description="the reference becomes the current policy every so many steps; 0 = never"
    )
    max_new_tokens: int = Field(default=512, gt=0, description="longest completion, in tokens")
    temperature: float = Field(default=1.0, gt=0, description="sampling temperature")
    slices: list[str] = Field(default_factory=list, description="only problems of these slices; empty = all")
    curriculum: Curriculum = Field(
        default="none", description="by the evaluation: edge = solved sometimes, easy_to_hard = in that order"
    )
    dynamic_sampling: Literal["auto", "always", "never"] = Field(
        default="auto", description="replace groups whose rewards are all alike; auto = if the method does (dapo)"
    )
    max_resampling: int = Field(
        default=4, gt=0, description="rounds of replacing after which a batch is taken as it is"
    )
    hint_share: float = Field(default=1.0, gt=0, le=1, description="largest share of a hint given at the first step")
    hint_until: float = Field(default=0.8, gt=0, le=1, description="share of the steps after which none is given")
    max_staleness: int = Field(default=0, ge=0, description="optimizer steps after which a rollout is not on-policy")

    @property
    def variant(self) -> Variant:
        """The row of its method."""
        return VARIANTS[self.method]

    @property
    def samples_dynamically(self) -> bool:
        """Whether groups without contrast are replaced."""
        own = self.variant.dynamic_sampling
        return own if self.dynamic_sampling == "auto" else self.dynamic_sampling == "always"


# Arguments of TRL that these settings decide.
OWNED = (
    "num_generations",
    "beta",
    "max_completion_length",
    "temperature",
    "reward_weights",
    "sync_ref_model",
    "ref_model_sync_steps",
    "ref_model_mixup_alpha",
)


def check_settings(settings: RLSettings) -> None:
    """A step must sample whole groups, settings must not contradict each other, and TRL must know its arguments."""
    rollouts = settings.batch_size * settings.accumulation  # that one process trains on in an optimizer step
    if rollouts % settings.group_size:
        raise ConfigError(
            f"rl: batch_size × accumulation = {rollouts} is not a multiple of "
            f"group_size={settings.group_size}; a step samples whole groups"
        )
    check_reward_settings("rl", settings)
    _check_reference(settings)
    _check_essence(settings)
    _check_dynamic_sampling(settings)
    _check_vllm(settings)
    check_trainer_args(f"{settings.variant.trainer}Config", settings, OWNED)


def _check_reference(settings: RLSettings) -> None:
    every = settings.reference_reset_steps
    if every and not settings.kl:
        raise ConfigError(f"rl: reference_reset_steps={every} with kl=0, which has no reference; set kl, as 0.01")
    if every and settings.lora_rank:
        raise ConfigError(
            f"rl: reference_reset_steps={every} with lora_rank={settings.lora_rank}: an adapter's reference is the "
            "model without it, and cannot be moved; train all weights (lora_rank=0), or run several stages in a row"
        )


def _check_vllm(settings: RLSettings) -> None:
    corrected = settings.trainer_args.get("vllm_importance_sampling_correction", True)
    if settings.trainer_args.get("use_vllm") and not corrected and settings.accept_provenance != "mixed":
        raise ConfigError(
            "rl: trainer_args.vllm_importance_sampling_correction=false with use_vllm: vLLM's probabilities differ "
            "from the learner's, so uncorrected rollouts are not its own; leave it out, or accept_provenance=mixed"
        )


def _check_essence(settings: RLSettings) -> None:
    for name in settings.variant.essence:
        meant, given = settings.variant.arguments[name], settings.trainer_args.get(name)
        if given not in (None, meant):
            raise ConfigError(
                f"rl: trainer_args.{name}={given!r} with method={settings.method}, which is {name}={meant!r}: it would "
                "be another method under this name; leave it out, or choose the method that you mean"
            )


def _check_dynamic_sampling(settings: RLSettings) -> None:
    if not settings.samples_dynamically:
        if "max_resampling" in changed(settings):
            raise ConfigError(
                f"rl: max_resampling={settings.max_resampling} without dynamic sampling; set dynamic_sampling=always, "
                "or leave it out"
            )
        return
    for name, values in BATCHWISE.items():
        if settings.trainer_args.get(name) in values:
            raise ConfigError(
                f"rl: trainer_args.{name}={settings.trainer_args[name]!r} with dynamic sampling: TRL normalises over "
                "what it sampled, before groups are replaced; set dynamic_sampling=never, or choose "
                "reinforce_pp_baseline, which normalises afterwards"
            )
