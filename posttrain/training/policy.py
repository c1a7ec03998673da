"""Loading what is trained and writing what was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.policy import inspect_policy
from posttrain.errors import PolicyError
from posttrain.training.ranks import is_main, is_spread, whole_weights
from posttrain.training.settings import TrainSettings

# Bytes of a file of weights: S3 copies up to 5 GiB by one request, and files are hashed and sent side by side.
SHARD = 4 * 2**30
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

    In a group every process must call it. The first one writes, and only there is the policy to be found afterwards:
    the others, which may be on other machines, get an empty fingerprint.

    Args:
        own_config: what of its config is its own, as the head of a reward model.

    Returns:
        The new policy's fingerprint.

    Raises:
        PolicyError: a weight is NaN or infinite.
    """
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # else Transformers would spread whatever is loaded from now on, waiting for the others
    spread, adapted = is_spread(model), hasattr(model, "merge_and_unload")
    if adapted and (spread or getattr(model, "is_quantized", False)):
        model = merged_into(init, model)
        spread = False
    elif adapted:
        model = model.merge_and_unload()
    weights = whole_weights(model) if model is not None else {}
    fingerprint: dict[str, str | int | float] = {}
    if is_main():
        _refuse_diverged(weights)
        model.save_pretrained(out, state_dict=weights if spread else None, max_shard_size=SHARD)
        _keep_config(init.path, out, own_config)
        # A parent without one ends its answers as its config says; Transformers' would be the trainer's opinion.
        (out / "generation_config.json").unlink(missing_ok=True)
        copy_tokenizer(init.path, out)
        fingerprint = inspect_policy(out)
    return fingerprint


def merged_into(init: Artifact, model: Any) -> Any:
    """The policy with the trained adapters, merged into the weights of its parent as they are stored.

    For a model of which no process holds all weights, or none unrounded: a merge into 4-bit weights would round the
    adapters away with them (2305.14314 trains against rounded weights, and serves adapters on unrounded ones).
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    weights = whole_weights(model, trained.__contains__)
    if not is_main():
        return None
    config = model.peft_config["default"]
    adapters = get_peft_model_state_dict(model, state_dict=weights)
    stored = {"dtype": "auto", "use_safetensors": True}
    if config.task_type == "CAUSAL_LM":
        plain = AutoModelForCausalLM.from_pretrained(init.path, **stored)
    else:
        plain = AutoModelForSequenceClassification.from_pretrained(init.path, num_labels=1, **stored)
    whole = get_peft_model(plain, config)
    set_peft_model_state_dict(whole, adapters)
    return whole.merge_and_unload()


def _refuse_diverged(weights: Mapping[str, Any]) -> None:
    # Transformers hides a NaN loss from its log, so the weights are asked.
    for name, tensor in weights.items():
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
