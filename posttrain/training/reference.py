"""A reference for the KL term that is not the policy that the run starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError


class StaysNear:
    """Mixin for a TRL online trainer: the reference holds the weights of another policy of the same architecture.

    TRL builds the reference from the policy's own directory; its weights are replaced before the first step.

    Raises:
        ConfigError: the run shards models (FSDP, DeepSpeed), whose parts no single file fits.
    """

    def __init__(self, *args: Any, reference: Path, **kwargs: Any) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # type: ignore[attr-defined]
            raise ConfigError(
                "a reference of its own cannot be sharded over processes (FSDP, DeepSpeed); train with one process a "
                "GPU, or stay near init"
            )
        held = self.accelerator.unwrap_model(self.ref_model)  # type: ignore[attr-defined]
        other = AutoModelForCausalLM.from_pretrained(reference, dtype=held.dtype, use_safetensors=True)
        held.load_state_dict(other.state_dict())
