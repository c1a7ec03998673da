"""What DeepSpeed's ZeRO holds of a run in this process, as values that are kept without pickling, and back."""

from __future__ import annotations

from typing import Any

_COUNTS = ("global_steps", "global_samples", "micro_steps", "skipped_steps")
# Of an optimizer's state: what only conversions to other formats read, and is no plain value.
_UNREAD = {"param_slice_mappings", "universal_checkpoint_info", "zero_stage"}


def state_of(engine: Any) -> dict[str, Any]:
    """This process's partition of the optimizer (masters of the weights, moments), loss scale, the engine's counts."""
    state = {name: value for name, value in engine.optimizer.state_dict().items() if name not in _UNREAD}
    return {
        "optimizer": state | {"loss_scaler": dict(vars(state["loss_scaler"]))},
        "engine": {name: getattr(engine, name) for name in _COUNTS},
    }


def restore_state(engine: Any, kept: dict[str, Any]) -> None:
    """Put back what `state_of` gave, in as many processes; the weights must be back already.

    In a group every process must call it.
    """
    import torch.distributed as group

    optimizer, scaler = engine.optimizer, engine.optimizer.loss_scaler
    vars(scaler).update(kept["optimizer"]["loss_scaler"])
    mine = kept["optimizer"] | {"loss_scaler": scaler}
    # It looks at this process's place of the list alone.
    optimizer.load_state_dict([mine] * group.get_world_size(), load_from_fp32_weights=True)
    if hasattr(optimizer, "checkpoint_event_epilogue"):  # ZeRO-3's: small weights, which each has whole, are gathered
        optimizer.checkpoint_event_epilogue()
    for name, value in kept["engine"].items():
        setattr(engine, name, value)
