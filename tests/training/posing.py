"""Two CPU processes that pose as accelerators, over which alone Accelerate shards.

The sharding, its collectives and what is kept of it are the real ones, NCCL is not. Run as a program, this is a process
of a group that poses (`launch.COMMAND`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def pose_as_accelerators() -> None:
    """Have Accelerate take this process's CPU for an accelerator when the strategy is one that shards."""
    import torch
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    from posttrain.training import arguments, hardware, launch

    plain, backend, device = hardware.hardware_arguments, PartialState._prepare_backend, PartialState.set_device

    def posing(settings: Any) -> dict[str, Any]:
        return plain(settings) | ({"use_cpu": False} if settings.strategy != "ddp" else {})

    def prepare_backend(self: Any, cpu: bool = False, *more: Any, **named: Any) -> Any:
        if cpu or "LOCAL_RANK" not in os.environ:
            return backend(self, cpu, *more, **named)
        return "gloo", DistributedType.MULTI_GPU

    def set_device(self: Any) -> None:
        if self.distributed_type is DistributedType.MULTI_GPU or self.distributed_type is DistributedType.DEEPSPEED:
            self.device = torch.device("cpu")
        else:
            device(self)

    PartialState._prepare_backend, PartialState.set_device = prepare_backend, set_device
    arguments.hardware_arguments = posing
    arguments.refuse_impossible = launch.refuse_impossible = lambda settings: None


if __name__ == "__main__":
    from posttrain.cli.worker import run_rank

    pose_as_accelerators()
    run_rank(Path(sys.argv[1]))
