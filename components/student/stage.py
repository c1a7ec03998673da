"""Makes a smaller student from a teacher: fewer layers, narrower if asked, every weight taken from the teacher's.

Layers are kept at even distances, first and last included (as DistilBERT did, 1910.01108, section 3); a narrower
tensor takes the leading channels of each dimension, the same ones everywhere, so it stays a sub-network. No gradient
is taken: what the student lost is what `distill` has to bring back.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field

from posttrain.artifacts.contracts import size_of
from posttrain.artifacts.policy import inspect_policy
from posttrain.errors import ConfigError, nearest
from posttrain.progress import Progress
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind

# Where decoder layers live in Transformers' models: model.layers.3.…, transformer.h.3.…
_LAYER = re.compile(r"(.*\.(?:layers|h|blocks|block)\.)(\d+)(\..+)")
# Tensors that hold several projections side by side: their leading channels are the first of them, not some of each.
_FUSED = re.compile(r"gate_up_proj|c_attn|qkv|query_key_value|in_proj")


class StudentSettings(Settings):
    """The student's size."""

    layers: int = Field(default=0, ge=0, description="decoder layers to keep; 0 = as many as max_ratio allows")
    config: dict[str, Any] = Field(
        default_factory=dict, description="other smaller config values, as intermediate_size"
    )
    max_ratio: float = Field(default=0.5, gt=0, le=1, description="largest allowed share of the teacher's parameters")


PARENTS = {"teacher": ParentSpec(Kind.POLICY, help="the policy to shrink")}


def run(settings: StudentSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Build the smaller model, copy the weights, check the size, write."""
    from transformers import AutoModelForCausalLM

    from posttrain.training.policy import SHARD, copy_tokenizer

    teacher = parents.one("teacher")
    large = AutoModelForCausalLM.from_pretrained(teacher.path, use_safetensors=True, dtype="auto")
    config, kept = fitting_config(large, settings)
    small = AutoModelForCausalLM.from_config(config, dtype=large.dtype)
    weights = sliced_weights(large.state_dict(), small.state_dict(), kept)
    _refuse_cut_fused(large.config, large.state_dict(), weights)
    small.load_state_dict(weights)
    small.save_pretrained(out, max_shard_size=SHARD)
    copy_tokenizer(teacher.path, out)
    facts = inspect_policy(out)
    ratio = int(facts["parameters"]) / int(teacher.record.facts["parameters"])
    if ratio > settings.max_ratio:
        raise ConfigError(
            f"student: {facts['parameters']} parameters are {ratio:.0%} of the teacher's, over max_ratio="
            f"{settings.max_ratio:.0%}; keep fewer layers (now {len(kept)}), narrow it by config, or raise max_ratio"
        )
    progress.update(1, 1, "student built")
    return Work(facts=facts, metrics={"parameters": float(facts["parameters"]), "parameter_ratio": ratio})


def fitting_config(large: Any, settings: StudentSettings) -> tuple[Any, list[int]]:
    """The config of the student that was asked for, or of the deepest one within `max_ratio` (at least one layer)."""
    if settings.layers:
        return smaller_config(large.config, settings, settings.layers)
    allowed = settings.max_ratio * large.num_parameters()
    for layers in range(large.config.num_hidden_layers, 0, -1):
        # Half the layers are more than half the weights: the embeddings stay.
        config, kept = smaller_config(large.config, settings, layers)
        if _parameters(config) <= allowed:
            break
    return config, kept


def _parameters(config: Any) -> int:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(config).num_parameters())


def smaller_config(config: Any, settings: StudentSettings, wanted: int) -> tuple[Any, list[int]]:
    """The config of a student with so many layers, and the teacher's layers it keeps, in order.

    Raises:
        ConfigError: a config value is unknown, there are too few layers, or a kind of layer would be lost.
    """
    total = config.num_hidden_layers
    if wanted > total:
        raise ConfigError(f"student: layers={wanted}, but the teacher has {total}; keep at most as many")
    kept = [round(index * (total - 1) / max(wanted - 1, 1)) for index in range(wanted)]
    values = config.to_dict()
    for given, value in settings.config.items():
        name = config.attribute_map.get(given, given)
        if name not in values:
            raise ConfigError(f"student: config has no {given!r}{nearest(given, values)}")
        # KFP's JSON makes every number a double.
        values[name] = int(value) if isinstance(value, float) and isinstance(values[name], int) else value
    for name, value in values.items():
        # Per-layer lists, such as layer_types of models that mix attention kinds.
        if isinstance(value, list) and len(value) == total and not name.endswith("_token_id"):
            values[name] = [value[index] for index in kept]
    depth = "n_layer" if "n_layer" in values else "num_hidden_layers"
    values[depth] = wanted
    if lost := set(getattr(config, "layer_types", None) or ()) - set(values.get("layer_types") or ()):
        raise ConfigError(f"student: layers={wanted} leaves none of kind {', '.join(sorted(lost))}; keep more layers")
    return type(config).from_dict(values), kept


def sliced_weights(teacher: dict[str, Any], student: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    """The student's weights: the kept layers' tensors, each cut to the student's shape.

    Raises:
        ConfigError: a tensor of the student is larger than the teacher's, or has no counterpart.
    """
    weights = {}
    for name, tensor in student.items():
        layer = _LAYER.match(name)
        source = f"{layer[1]}{kept[int(layer[2])]}{layer[3]}" if layer else name
        if source not in teacher:
            raise ConfigError(
                f"student: {name} has no counterpart {source} in the teacher; change layers and widths only"
            )
        whole = teacher[source]
        if whole.dim() != tensor.dim() or any(s > t for s, t in zip(tensor.shape, whole.shape, strict=True)):
            raise ConfigError(
                f"student: {name} {tuple(tensor.shape)} does not fit in the teacher's {tuple(whole.shape)}"
            )
        weights[name] = whole[tuple(slice(size) for size in tensor.shape)].clone()
    return weights


def _refuse_cut_fused(config: Any, teacher: dict[str, Any], student: dict[str, Any]) -> None:
    experts = {getattr(config, name, None) for name in ("num_experts", "num_local_experts")}
    sliceable = {config.hidden_size, *experts}
    for name, tensor in student.items():
        # Layers are alike, so the teacher's layer of the same number has the source's shape.
        whole = teacher[name].shape
        cut = any(s != t and t not in sliceable for s, t in zip(tensor.shape, whole, strict=True))
        if cut and _FUSED.search(name):
            raise ConfigError(
                f"student: {name} {tuple(whole)} holds several projections side by side and cannot be narrowed to "
                f"{tuple(tensor.shape)}; keep fewer layers instead, or leave that width as it is"
            )


STAGE = Stage(
    name="student",
    output="policy",
    makes=Kind.POLICY,
    parents=PARENTS,
    settings=StudentSettings,
    run=run,
    size=lambda parents: size_of(parents.one("teacher")),
    measures=False,
)
