"""Loading what is trained and writing what was trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.policy import inspect_policy
from posttrain.training.settings import TrainSettings

# What Transformers writes anew; everything else beside the weights is the parent's, byte for byte.
_WRITTEN = ("config.json", "model.safetensors", "model.safetensors.index.json")


def load_tokenizer(directory: Path) -> Any:
    """The policy's tokenizer, padding on the left as generation needs it, with a pad token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left", truncation_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def lora_config(settings: TrainSettings) -> Any:
    """A PEFT config over every linear layer (2106.09685), or None when all weights are trained."""
    if not settings.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def save_policy(model: Any, init: Artifact, out: Path) -> dict[str, str | int | float]:
    """Write the trained policy, adapters merged, with its parent's tokenizer files unchanged.

    Returns:
        The new policy's fingerprint.
    """
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.save_pretrained(out)
    copy_tokenizer(init.path, out)
    return inspect_policy(out)


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy everything but weights and model config, so that tokenizer, template and EOS keep their digests."""
    for file in source.iterdir():
        if file.is_file() and file.suffix != ".safetensors" and file.name not in (*_WRITTEN, "posttrain.json"):
            shutil.copyfile(file, out / file.name)
