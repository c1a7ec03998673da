"""What one process of a group knows of the others."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

_DONE = "posttrain: the first process is done"  # a key of the group's store


def rank() -> int:
    """This process's place in its group; 0 if it is alone."""
    return int(os.environ.get("RANK", 0))


def is_main() -> bool:
    """Whether this process writes: the first of its group, or the only one."""
    return rank() == 0


def wait_for_main() -> None:
    """Go on when the first process of the group is here, which may measure for hours what it wrote.

    By the group's store: a barrier gives up after the time that training's collectives have.
    """
    import torch.distributed as group
    from torch.distributed.distributed_c10d import _get_default_store

    if not (group.is_available() and group.is_initialized()):
        return
    if is_main():
        _get_default_store().set(_DONE, "")
    else:
        _get_default_store().wait([_DONE], timedelta(days=14))


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


def mean_of_all(accelerator: Any, values_N: Any) -> Any:
    """The mean of numbers of which every process has some, none at all being 0; every process must call it."""
    import torch

    with torch.no_grad():
        values_N = torch.as_tensor(values_N, dtype=torch.float32, device=accelerator.device)
        sums = torch.stack([values_N.sum(), values_N.new_tensor(values_N.numel())])
        total, count = accelerator.reduce(sums, reduction="sum")
        return total / count.clamp(min=1)


def batch_mean(trainer: Any, losses_N: Any, items: Any) -> Any:
    """The mean of a batch's losses, as a trainer's `compute_loss` returns it in each process and pass.

    Args:
        losses_N: of this process's tokens (or whatever is labelled) in this pass.
        items: how many the whole batch has, over all processes and passes; None = only these.
    """
    if items is None:
        return losses_N.mean()
    # Gradients are averaged over processes, so each one's part of the sum counts for all of them.
    processes = trainer.accelerator.num_processes if trainer.args.average_tokens_across_devices else 1
    return losses_N.sum() * processes / items


def is_spread(model: Any) -> bool:
    """Whether no process holds the whole model: FSDP2 and ZeRO-3 give each a part of every weight."""
    return any(hasattr(p, "full_tensor") or hasattr(p, "ds_id") for p in model.parameters())


@contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Meanwhile every process has all weights of a model that ZeRO-3 has spread, for what goes around its hooks."""
    spread = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    if not spread:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(spread):
        yield


def spread_as(trainer: Any, model: Any) -> Any:
    """A model that only scores, beside the one that is trained: placed and spread over processes as that one."""
    from trl.models import prepare_deepspeed, prepare_fsdp

    model.requires_grad_(False).eval()
    if trainer.is_deepspeed_enabled:
        return prepare_deepspeed(model, trainer.accelerator)
    if trainer.is_fsdp_enabled:
        return prepare_fsdp(model, trainer.accelerator)
    return trainer.accelerator.prepare_model(model, evaluation_mode=True)


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
