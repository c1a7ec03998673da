"""Loading what is trained and writing what was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.policy import inspect_policy
from posttrain.errors import PolicyError
from posttrain.training.settings import TrainSettings

# What belongs to a policy's weights; everything else is the parent's, byte for byte.
_WRITTEN = ("config.json", "model.safetensors.index.json", "posttrain.json")


def lora_config(settings: TrainSettings, task: str = "CAUSAL_LM") -> Any:
    """A PEFT config over every linear layer (2106.09685), or None when all weights are trained."""
    if not settings.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules="all-linear", task_type=task)


def save_policy(model: Any, init: Artifact, out: Path, own_config: Sequence[str] = ()) -> dict[str, str | int | float]:
    """Write the trained policy, adapters merged; all but the weights stays as in its parent.

    Args:
        own_config: what of its config is its own, as the head of a reward model.

    Returns:
        The new policy's fingerprint.

    Raises:
        PolicyError: a weight is NaN or infinite.
    """
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    _refuse_diverged(model)
    model.save_pretrained(out)
    _keep_config(init.path, out, own_config)
    # A parent without one ends its answers as its config says; Transformers' would be the trainer's opinion.
    (out / "generation_config.json").unlink(missing_ok=True)
    copy_tokenizer(init.path, out)
    return inspect_policy(out)


def _refuse_diverged(model: Any) -> None:
    # Transformers hides a NaN loss from its log, so the weights are asked.
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise PolicyError(f"training diverged: {name} is NaN or infinite; lower learning_rate, or add warmup_steps")


def _keep_config(source: Path, out: Path, own: Sequence[str]) -> None:
    """Give the trained policy its parent's config, but for the type of the weights and what is its own.

    TRL leaves its own switches in a config: a mixture of experts saved with `output_router_logits` cannot be sampled
    from a cache, and Transformers replaces EOS and padding ids by the tokenizer's.
    """
    kept, trained = (json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (source, out))
    for part in (kept, *(value for value in kept.values() if isinstance(value, dict))):
        if part is kept or part.keys() & {"dtype", "torch_dtype"}:
            part.pop("torch_dtype", None)
            part["dtype"] = trained["dtype"]
    kept |= {name: trained[name] for name in own if name in trained}
    (out / "config.json").write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy everything but weights and model config, so that tokenizer, template and EOS keep their digests."""
    for file in source.iterdir():
        if file.is_file() and file.suffix != ".safetensors" and file.name not in _WRITTEN:
            shutil.copyfile(file, out / file.name)
