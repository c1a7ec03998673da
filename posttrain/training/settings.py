"""The settings that every training stage has. Defaults are TRL's, written out so that a user sees what to change."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

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

# Settings of where a run is kept and how it goes on: they change nothing of what it makes.
CHECKPOINT_SETTINGS = frozenset(
    {
        "checkpoint_uri",
        "checkpoint_steps",
        "checkpoint_seconds",
        "checkpoint_patience",
        "keep_last",
        "keep_best",
        "keep_metric",
        "keep_every",
        "resume",
    }
)


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
    processes: int = Field(default=0, ge=0, description="processes per node; 0 = one per visible GPU")
    strategy: Literal["ddp", "fsdp", "zero2", "zero3"] = Field(
        default="ddp", description="how processes share a model: whole in each (ddp), or sharded"
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="arithmetic; auto = bf16 on GPUs that can, else fp32"
    )
    gradient_checkpointing: Literal["auto", "always", "never"] = Field(
        default="auto", description="recompute activations to save memory; auto = on GPUs"
    )
    quantize: Literal["none", "4bit"] = Field(default="none", description="4bit = QLoRA: frozen weights in NF4")
    liger: bool = Field(default=False, description="Liger's fused kernels (GPU)")
    track: list[Literal["mlflow", "wandb"]] = Field(
        default_factory=list, description="follow the run there as well; TensorBoard files are always written"
    )
    run_name: str = Field(default="", description="name of the tracked run; empty = the pipeline run's and the stage's")
    trainer_args: dict[str, Any] = Field(default_factory=dict, description="any other argument of TRL's config")
    checkpoint_uri: str = Field(
        default="", description="where the run is kept while it trains, a path or s3://bucket/prefix; empty = nowhere"
    )
    checkpoint_steps: int = Field(default=0, ge=0, description="optimizer steps between checkpoints; 0 = by time")
    checkpoint_seconds: float = Field(
        default=600.0, gt=0, description="seconds between checkpoints, where not by steps"
    )
    checkpoint_patience: float = Field(
        default=3600.0, gt=0, description="seconds without a checkpoint, because its store fails, that end the run"
    )
    keep_last: int = Field(default=2, gt=0, description="newest checkpoints that are kept")
    keep_best: int = Field(default=0, ge=0, description="best checkpoints by keep_metric that are kept, too")
    keep_metric: str = Field(
        default="-loss", description="curve that keep_best goes by: the largest, or after a minus the least"
    )
    keep_every: int = Field(default=0, ge=0, description="checkpoints of every so many steps are kept, too; 0 = none")
    resume: Literal["auto", "must", "never"] = Field(
        default="auto", description="go on from a checkpoint of this very run: if there is one, or only then, or never"
    )

    @property
    def counts_by_device(self) -> bool:
        """Whether what is made depends on each device's share of a batch, not on their sum alone."""
        return not self.trainer_args.keys().isdisjoint({"steps_per_generation", "generation_batch_size"})

    @model_validator(mode="after")
    def _agree(self) -> TrainSettings:
        """Refuse what cannot go together on any machine."""
        if self.quantize != "none" and not self.lora_rank:
            raise ValueError(
                f"quantize={self.quantize} with lora_rank=0: quantised weights cannot be trained; set lora_rank"
            )
        if self.quantize != "none" and self.strategy != "ddp":
            raise ValueError(
                f"quantize={self.quantize} with strategy={self.strategy}: quantised weights are not sharded; use ddp"
            )
        if self.strategy != "ddp" and self.processes == 1:
            raise ValueError(f"strategy={self.strategy} with processes=1: nothing to shard over; use ddp")
        return self
