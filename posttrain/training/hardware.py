"""What a training stage's settings mean on the machine that it runs on: processes, precision, sharding, kernels."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

from posttrain.errors import ConfigError
from posttrain.training.settings import TrainSettings

# DeepSpeed takes "auto" from the trainer's arguments.
_ZERO: dict[str, Any] = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
}
_PARTITION = {"reduce_bucket_size": "auto", "overlap_comm": True, "contiguous_gradients": True}

# How processes share a model, in Transformers' arguments (FSDP2 of PyTorch; ZeRO: 1910.02054).
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "reshard_after_forward": True,
            "state_dict_type": "FULL_STATE_DICT",
        },
    },
    "zero2": {"deepspeed": _ZERO | {"zero_optimization": {"stage": 2, **_PARTITION}}},
    "zero3": {
        "deepspeed": _ZERO
        | {
            "zero_optimization": {
                "stage": 3,
                **_PARTITION,
                "stage3_prefetch_bucket_size": "auto",
                "stage3_param_persistence_threshold": "auto",
            }
        }
    },
}
_PACKAGE = {"zero2": "deepspeed", "zero3": "deepspeed"}


@dataclass(frozen=True)
class Nodes:
    """The nodes of a run, as torchrun's environment (`PET_…`) names them; a Kubeflow TrainJob sets it."""

    number: int = 1
    rank: int = 0
    address: str = "localhost"
    port: int = 0

    @classmethod
    def from_environment(cls) -> Nodes:
        """This node among its like; without the environment, the only one."""
        number = int(os.environ.get("PET_NNODES") or 1)
        if number == 1:
            return cls()
        rank, port = int(os.environ["PET_NODE_RANK"]), int(os.environ["PET_MASTER_PORT"])
        return cls(number, rank, os.environ["PET_MASTER_ADDR"], port)


def processes_here(settings: TrainSettings) -> int:
    """Processes that this node runs.

    Raises:
        ConfigError: more than there are GPUs, or one beside GPUs that it would use all the same.
    """
    import torch

    visible = torch.cuda.device_count()
    if visible and settings.processes > visible:
        raise ConfigError(
            f"processes={settings.processes}, but {visible} GPUs are visible; lower it, or give the pod more "
            "(schedule_gpu_count)"
        )
    if settings.processes == 1 and visible > 1:
        # Transformers would fall back to DataParallel, which trains something else than one process per GPU does.
        raise ConfigError(
            f"processes=1, but {visible} GPUs are visible; leave processes at 0 to use them all, or give the pod one "
            "(schedule_gpu_count=1)"
        )
    return settings.processes or max(1, visible)


def processes_in_all(settings: TrainSettings) -> int:
    """Processes of all nodes together, also when asked inside one of them."""
    size = os.environ.get("WORLD_SIZE")
    return int(size) if size else Nodes.from_environment().number * processes_here(settings)


def global_batch(settings: TrainSettings) -> int:
    """Sequences per optimizer step: batch_size × accumulation × processes."""
    return settings.batch_size * settings.accumulation * processes_in_all(settings)


def refuse_impossible(settings: TrainSettings) -> None:
    """Refuse what this machine cannot do, before any process is started.

    Raises:
        ConfigError: there is no GPU, no second process or no package for what the settings ask for, or see
            `processes_here`.
    """
    import torch

    processes = processes_in_all(settings)
    if settings.strategy != "ddp":
        if not torch.cuda.is_available():
            raise ConfigError(f"strategy={settings.strategy} shards over GPUs, but none is visible; use ddp")
        if processes == 1:
            raise ConfigError(
                f"strategy={settings.strategy}, but one process trains; give the pod more GPUs, or use ddp"
            )
    wanted = [(f"strategy={settings.strategy}", _PACKAGE.get(settings.strategy, ""))]
    if settings.quantize != "none":
        wanted.append((f"quantize={settings.quantize}", "bitsandbytes"))
    if settings.liger:
        wanted.append(("liger=true", "liger_kernel"))
    for setting, package in wanted:
        if package and not torch.cuda.is_available():
            raise ConfigError(f"{setting} needs a GPU, and none is visible; leave it out")
        require(package, setting)
    for tracker in settings.track:
        require(tracker, f"track={tracker}")


def require(package: str, setting: str) -> None:
    """Refuse a setting whose package is missing.

    Raises:
        ConfigError: it is not installed.
    """
    if package and not importlib.util.find_spec(package):
        name = package.replace("_", "-")
        raise ConfigError(
            f"{setting} needs the package {name}, which is not installed; install it, or leave {setting} out"
        )


def hardware_arguments(settings: TrainSettings) -> dict[str, Any]:
    """Transformers' arguments for precision, memory and sharding. TRL's own defaults are a GPU's."""
    import torch

    cuda = torch.cuda.is_available()
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and cuda and torch.cuda.is_bf16_supported())
    recompute = cuda if settings.gradient_checkpointing == "auto" else settings.gradient_checkpointing == "always"
    arguments = {"use_cpu": not cuda, "bf16": bf16, "gradient_checkpointing": recompute}
    arguments |= {"use_liger_kernel": True} if settings.liger else {}
    strategy = STRATEGIES[settings.strategy]
    if "fsdp_config" in strategy:
        # FSDP recomputes by itself; both together would gather every layer twice.
        arguments["gradient_checkpointing"] = False
        strategy = strategy | {"fsdp_config": strategy["fsdp_config"] | {"activation_checkpointing": recompute}}
    return arguments | strategy


def quantized(settings: TrainSettings) -> dict[str, Any]:
    """Arguments of `from_pretrained` for QLoRA (2305.14314, section 3): NF4, constants quantised too, bf16 compute."""
    import torch
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
        # A quantised model cannot be moved: each process loads its own onto its GPU.
        "device_map": {"": int(os.environ.get("LOCAL_RANK", 0))},
    }
