"""What one process of a group knows of the others."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any


def is_main() -> bool:
    """Whether this process writes: the first of its group, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


def wait_for_all() -> None:
    """Go on when every process of the group is here."""
    import torch.distributed as group

    if group.is_available() and group.is_initialized():
        group.barrier()


def summed(counts: Counter[Any]) -> Counter[Any]:
    """A count that each process kept for its own share of the rows, added up over the group.

    Every process must call it, at the same place.
    """
    import torch.distributed as group

    if not (group.is_available() and group.is_initialized()):
        return counts
    parts: list[Any] = [None] * group.get_world_size()
    group.all_gather_object(parts, counts)
    total: Counter[Any] = Counter()
    for part in parts:
        total.update(part)  # `+` would drop what was counted to be zero
    return total


def is_spread(model: Any) -> bool:
    """Whether no process holds the whole model: FSDP2 and ZeRO-3 give each a part of every weight."""
    return any(hasattr(p, "full_tensor") or hasattr(p, "ds_id") for p in model.parameters())


def whole_weights(model: Any, names: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
    """A model's state, gathered on the CPU of the first process wherever FSDP or ZeRO-3 has spread it; empty elsewhere.

    Every process must call it. An unspread model's own tensors are returned as they are.

    Args:
        names: which of its tensors, by name.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    gathered: dict[int, Any] = {}  # by parameter: tied weights stay one tensor, which is stored once
    whole = {}
    for name, tensor in model.state_dict().items():
        if names(name):
            parameter = parameters.get(name)
            key = id(tensor if parameter is None else parameter)
            if key not in gathered:
                gathered[key] = _gathered(tensor, parameter)
            whole[name] = gathered[key]
    return whole if is_main() else {}


def _gathered(tensor: Any, parameter: Any) -> Any:
    """One tensor of a state, of which this process may hold a part only; None on processes that do not write."""
    if hasattr(tensor, "full_tensor"):  # FSDP2's DTensor
        full = tensor.full_tensor()
        return full.cpu() if is_main() else None
    if hasattr(parameter, "ds_id"):  # ZeRO-3, whose state has empty places
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().cpu().clone() if is_main() else None
    return tensor
