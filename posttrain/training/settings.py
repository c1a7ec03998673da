"""The settings that every training stage has. Defaults are TRL's, written out so that a user sees what to change."""

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
    "seed": "seed",
}


class TrainSettings(Settings):
    """Optimisation."""

    learning_rate: float = Field(default=1e-6, gt=0, description="peak learning rate")
    epochs: float = Field(default=3.0, gt=0, description="passes over the data")
    max_steps: int = Field(default=0, ge=0, description="optimizer steps, instead of epochs; 0 = by epochs")
    batch_size: int = Field(default=8, gt=0, description="sequences per device and forward pass")
    accumulation: int = Field(default=1, gt=0, description="forward passes per optimizer step")
    warmup_steps: int = Field(default=0, ge=0, description="steps of linear warm-up")
    schedule: str = Field(default="linear", description="learning-rate schedule: linear, cosine, constant …")
    logging_steps: int = Field(default=10, gt=0, description="steps between two points of the curves")
    lora_rank: int = Field(default=0, ge=0, description="0 trains all weights; else LoRA, merged at the end")
    lora_alpha: int = Field(default=32, gt=0, description="LoRA scale")
    trainer_args: dict[str, Any] = Field(default_factory=dict, description="any other argument of TRL's config")
