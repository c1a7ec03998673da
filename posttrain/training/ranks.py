"""What one process of a group knows of the others."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
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


class Group:
    """The processes of a run, for what they agree on beside training itself: over the CPU, whatever training uses.

    Every process must make one, and call the same methods in the same order. `gathered` is for a thread beside the
    main one, and has connections of its own.
    """

    def __init__(self) -> None:
        import torch.distributed as group

        self._group: Any = None
        if group.is_available() and group.is_initialized() and group.get_world_size() > 1:
            self._group = group
            # An upload may keep the others waiting for long; a process that dies ends them all anyway.
            self._main, self._beside = (group.new_group(backend="gloo", timeout=timedelta(days=1)) for _ in range(2))

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Each flag, whether any process has raised it."""
        if self._group is None:
            return list(flags)
        import torch

        raised = torch.tensor(flags, dtype=torch.int32)
        self._group.all_reduce(raised, op=self._group.ReduceOp.MAX, group=self._main)
        return [bool(flag) for flag in raised.tolist()]

    def first(self, value: Any) -> Any:
        """The first process's value, in every process."""
        if self._group is None:
            return value
        values = [value]
        self._group.broadcast_object_list(values, src=0, group=self._main)
        return values[0]

    def gathered(self, value: Any) -> list[Any]:
        """Every process's value, in every process."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self._group.get_world_size()
        self._group.all_gather_object(values, value, group=self._beside)
        return values


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
