"""TRL's config from a stage's settings: validated names, whole numbers restored, nothing dangerous."""

from __future__ import annotations

import dataclasses
import importlib.util
import types
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError, nearest
from posttrain.training.hardware import hardware_arguments, quantized, refuse_impossible
from posttrain.training.settings import TRL_NAMES, TrainSettings
from posttrain.training.tracking import run_name
from posttrain.training.trl_classes import trl_class

# Arguments that a stage decides itself, with the reason.
_OWNED = {
    "output_dir": "the stage writes the policy",
    "trust_remote_code": "remote code is never run",
    "push_to_hub": "policies are registered by the stage register, after the gate",
    "hub_token": "credentials do not belong in a record",
    "resume_from_checkpoint": "the stage resumes by itself",
    # The trained policy keeps its parent's tokenizer, so it must be trained with that one.
    "chat_template_path": "the policy's own chat template is used; add it to the model",
    "eos_token": "the policy's own EOS token is used; set it in the model's tokenizer",
    "pad_token": "the policy's own padding token is used; set it in the model's tokenizer",
    "teacher_model_name_or_path": "the teacher is a parent of the stage",
}

# Arguments of Transformers that several of ours stand for → our setting.
_STOOD_FOR = {
    "bf16": "precision",
    "fp16": "precision",
    "gradient_checkpointing": "gradient_checkpointing",
    "fsdp": "strategy",
    "fsdp_config": "strategy",
    "deepspeed": "strategy",
    "use_liger_kernel": "liger",
    "report_to": "track",
    "run_name": "run_name",
}


def trainer_config(config: type, settings: TrainSettings, directory: Path, **owned: Any) -> Any:
    """Build a TRL config.

    Args:
        config: a TRL config class, for example `trl.SFTConfig`.
        directory: scratch space of the trainer.
        owned: arguments that the stage derives from its own settings; `trainer_args` may not contradict them.

    Raises:
        ConfigError: an argument is unknown, belongs to a setting, TRL refuses its value, or this machine cannot do it.
    """
    refuse_impossible(settings)
    arguments: dict[str, Any] = {
        **hardware_arguments(settings),
        "report_to": settings.track or "none",
        "run_name": run_name(settings, config.__name__.removesuffix("Config").lower()),
        "save_strategy": "no",
        "disable_tqdm": True,
        "output_dir": str(directory),
    }
    arguments |= {theirs: getattr(settings, ours) for ours, theirs in TRL_NAMES.items()}
    arguments["max_steps"] = settings.max_steps or -1  # Transformers' "by epochs"
    arguments |= owned
    arguments |= _checked(config, settings.trainer_args, set(owned))
    if settings.quantize != "none":
        arguments["model_init_kwargs"] = (arguments.get("model_init_kwargs") or {}) | quantized(settings)
    try:
        return config(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{config.__name__}: {str(error).splitlines()[0]}") from error


def check_trainer_args(config: str, settings: TrainSettings, owned: Collection[str] = ()) -> None:
    """Refuse `trainer_args` that TRL's config does not have; without TRL, as on a laptop that only compiles, later.

    Args:
        config: the name of a TRL config class, as `trl_class` takes it, or `TrainingArguments`, from which all come.
        owned: arguments that the stage derives from its own settings.

    Raises:
        ConfigError: an argument is unknown, or belongs to a setting.
    """
    if settings.trainer_args and importlib.util.find_spec("trl"):
        _checked(_config_class(config), settings.trainer_args, set(owned))


def _config_class(name: str) -> Any:
    if name != "TrainingArguments":
        return trl_class(name)
    from transformers import TrainingArguments

    return TrainingArguments


def _checked(config: type, given: dict[str, Any], owned: set[str]) -> dict[str, Any]:
    hints = typing.get_type_hints(config)
    names = {field.name for field in dataclasses.fields(config)}
    ours = {theirs: mine for mine, theirs in TRL_NAMES.items()} | _STOOD_FOR
    checked = {}
    for name, value in given.items():
        if name in _OWNED:
            raise ConfigError(f"trainer_args.{name}={value!r}: {_OWNED[name]}; leave it out")
        if name in owned or name in ours:
            raise ConfigError(
                f"trainer_args.{name}={value!r}: the stage has a setting for it ({ours.get(name, name)}); use that"
            )
        if name not in names:
            raise ConfigError(f"trainer_args: {config.__name__} has no {name!r}{nearest(name, names)}")
        checked[name] = _restore_int(value, hints[name])
    return checked


def _restore_int(value: Any, hint: Any) -> Any:
    """KFP's JSON makes every number a double; TRL's integers want to be integers again."""
    kinds = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) or typing.get_origin(hint) else {hint}
    if isinstance(value, dict):  # an untyped dict, as generation_kwargs: 2.0 was 2 when somebody wrote it
        return {key: _restore_int(inner, int) for key, inner in value.items()}
    if isinstance(value, float) and value.is_integer() and int in kinds and float not in kinds:
        return int(value)
    return value
