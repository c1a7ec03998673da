"""The settings that every training stage has. Unset ones keep TRL's own default."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from posttrain.settings import Settings

# Our name → the name in TRL's configs (which extend transformers.TrainingArguments).
TRL_NAMES = {
    "learning_rate": "learning_rate",
    "epochs": "num_train_epochs",
    "max_steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "warmup_steps": "warmup_steps",
    "schedule": "lr_scheduler_type",
    "logging_steps": "logging_steps",
    "gradient_checkpointing": "gradient_checkpointing",
    "seed": "seed",
}


class TrainSettings(Settings):
    """Optimisation, as TRL and Transformers name and default it."""

    learning_rate: float | None = Field(default=None, gt=0, description="peak learning rate")
    epochs: float | None = Field(default=None, gt=0, description="passes over the data")
    max_steps: int | None = Field(default=None, gt=0, description="optimizer steps; overrides epochs")
    batch_size: int | None = Field(default=None, gt=0, description="sequences per device and forward pass")
    accumulation: int | None = Field(default=None, gt=0, description="forward passes per optimizer step")
    warmup_steps: int | None = Field(default=None, ge=0, description="steps of linear warm-up")
    schedule: str | None = Field(default=None, description="learning-rate schedule: linear, cosine, constant …")
    logging_steps: int | None = Field(default=None, gt=0, description="steps between two points of the curves")
    gradient_checkpointing: bool | None = Field(
        default=None, description="trade compute for memory; unset: on a GPU only"
    )
    lora_rank: int = Field(
        default=0, ge=0, description="0 trains all weights; else LoRA, merged into the policy at the end"
    )
    lora_alpha: int = Field(default=32, gt=0, description="LoRA scale")
    trainer_args: dict[str, Any] = Field(default_factory=dict, description="any other argument of TRL's config")
