"""Any state as JSON and tensors, and back into the objects that it was taken from: nothing is ever pickled."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.training.parts import Part, Stored, part_of

_KIND = "kind"  # of a value that JSON cannot say by itself


def packed(value: Any, tensors: dict[str, Tensor | Part], path: str) -> Any:
    """A value as JSON can hold it; its tensors go to `tensors` by their path, and are not copied.

    Args:
        path: where the value is kept; the names of its tensors start with it.

    Raises:
        TypeError: it has a part that could not be restored.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        tensors[path] = part_of(value.detach())
        return {_KIND: "tensor", "name": path, "on_cpu": value.device.type == "cpu"}
    if isinstance(value, torch.Generator):
        tensors[path] = value.get_state()
        return {_KIND: "generator", "name": path}
    if isinstance(value, torch.nn.Module):
        tensors |= {f"{path}.{name}": tensor for name, tensor in own_tensors(value).items()}
        return {_KIND: "module", "name": path}
    if isinstance(value, np.ndarray):
        return {_KIND: "array", "type": str(value.dtype), "items": value.tolist()}
    if isinstance(value, dict):
        items = [[packed(k, tensors, path), packed(v, tensors, f"{path}.{k}")] for k, v in value.items()]
        return {_KIND: "counter" if isinstance(value, Counter) else "dict", "items": items}
    if isinstance(value, list | tuple | deque):
        items = [packed(each, tensors, f"{path}.{number}") for number, each in enumerate(value)]
        kind = "deque" if isinstance(value, deque) else "tuple"
        return items if isinstance(value, list) else {_KIND: kind, "items": items}
    raise TypeError(f"{path} is a {type(value).__name__}, which a checkpoint cannot hold")


def unpacked(value: Any, tensors: Stored, old: Any, device: Any) -> Any:
    """What `packed` packed.

    Args:
        old: what is in its place now. Modules, generators, dicts and deques are restored in place, so that whoever
            holds them sees it and they keep what they do with missing keys or too many values.
        device: where tensors go that were not on the CPU.
    """
    if isinstance(value, list):
        return [unpacked(each, tensors, None, device) for each in value]
    if not isinstance(value, dict):
        return value
    kind = value[_KIND]
    if kind == "tensor":
        return tensors[value["name"]].to("cpu" if value["on_cpu"] else device, copy=True)
    if kind == "generator":
        old.set_state(tensors[value["name"]])
        return old
    if kind == "module":
        restore_tensors(own_tensors(old), tensors, f"{value['name']}.")
        return old
    if kind == "array":
        return np.array(value["items"], dtype=value["type"])
    if kind in ("dict", "counter"):
        kept = old if isinstance(old, dict) else Counter() if kind == "counter" else {}
        return _dict(value["items"], tensors, kept, device)
    items = [unpacked(each, tensors, None, device) for each in value["items"]]
    if kind == "tuple":
        return tuple(items)
    queue = old if isinstance(old, deque) else deque()
    queue.clear()
    queue.extend(items)
    return queue


def _dict(items: list[Any], tensors: Stored, kept: Any, device: Any) -> Any:
    before = dict(kept)
    kept.clear()
    for packed_key, packed_value in items:
        key = unpacked(packed_key, tensors, None, device)
        make = getattr(kept, "default_factory", None)
        kept[key] = unpacked(packed_value, tensors, before.get(key, make() if make else None), device)
    return kept


def own_tensors(module: torch.nn.Module) -> dict[str, Tensor | Part]:
    """A module's state by name, and of what is spread over processes this one's part.

    What is tied is there once, under its first name, as in Hugging Face's files.
    """
    named: dict[str, Tensor | Part] = {}
    seen: set[Any] = set()
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, tensor in module.state_dict().items():
        # ZeRO-3's are empty here, so that only the parameters themselves tell which are tied.
        place = id(parameters[name]) if name in parameters else _place(tensor) if tensor.numel() else name
        if place not in seen:
            named[name] = part_of(tensor, parameters.get(name))
            seen.add(place)
    return named


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def restore_tensors(held: Mapping[str, Tensor | Part], stored: Stored, prefix: str = "") -> None:
    """Put back what `own_tensors` gave, into what it gives now."""
    with torch.no_grad():
        for name, tensor in held.items():
            stored.fill(prefix + name, tensor)
