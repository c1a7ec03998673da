"""Merges policies in weight space, without a gradient: specialists of one family become one policy.

1. `posttrain.training.merging` holds the formulas; `linear` and `slerp` need the policies alone, the others the base
   that all of them were trained from.
2. Tensors are read, merged and written one by one, in float32, and stored in the first policy's type and files.
3. Everything but the weights is the first policy's: config, tokenizer, chat template, generation config.
No trajectory is learned from, so there is no provenance. What the merge lost is for `evaluate` to say.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import agree_on_text, size_of
from posttrain.artifacts.policy import inspect_policy
from posttrain.errors import ConfigError, ContractError, PolicyError
from posttrain.progress import Progress
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from posttrain.training.weights import Weights

_AVERAGES = ("linear", "slerp", "ties")
_WITHOUT_BASE = ("linear", "slerp")
_HOW_MANY = {"linear": (2, 8), "slerp": (2, 2)}  # one task vector may be rescaled; one policy has no average


class MergeSettings(Settings):
    """Merging."""

    method: Literal["linear", "slerp", "task_arithmetic", "ties", "dare"] = Field(
        default="linear", description="average, arc, or a sum of task vectors: whole, trimmed, or thinned at random"
    )
    weights: list[float] = Field(
        default_factory=list,
        description="one for each policy: shares of an average, or scales of task vectors; empty = 1 each",
    )
    density: float = Field(default=0.2, gt=0, le=1, description="share of each task vector that ties or dare keep")
    accept_differences: list[Literal["tokenizer", "chat_template", "eos"]] = Field(
        default_factory=list, description="differences between the policies that you accept"
    )


PARENTS = {
    "policies": ParentSpec(Kind.POLICY, most=8, help="the policies to merge; the first gives config and tokenizer"),
    "base": ParentSpec(Kind.POLICY, required=False, help="what they were trained from (task_arithmetic, ties, dare)"),
}


def check_settings(settings: MergeSettings) -> None:
    """An average needs weights that are shares."""
    weights = settings.weights
    if weights and settings.method in _AVERAGES and (min(weights) < 0 or sum(weights) == 0):
        raise ConfigError(
            f"merge: weights={weights} are no shares of an average; give {settings.method} none below 0 and one above"
        )


def check(settings: MergeSettings, parents: Parents) -> None:
    """The method must have its parents, and these the same text and the same tensors."""
    policies, base, method = parents.all("policies"), parents.maybe("base"), settings.method
    if method in _WITHOUT_BASE and base:
        raise ContractError(f"merge: method={method} uses no parent 'base'; leave it out, or use task_arithmetic")
    if method not in _WITHOUT_BASE and not base:
        raise ContractError(f"merge: method={method} needs a parent 'base': {PARENTS['base'].help}")
    least, most = _HOW_MANY.get(method, (1, PARENTS["policies"].most))
    if not least <= len(policies) <= most:
        raise ContractError(f"merge: method={method} takes {least} to {most} policies, not {len(policies)}")
    if settings.weights and len(settings.weights) != len(policies):
        raise ContractError(f"merge: {len(settings.weights)} weights for {len(policies)} policies; give one for each")
    first = policies[0]
    others = {f"policies_{number}": policy for number, policy in enumerate(policies[1:], start=2)}
    for name, other in (others | ({"base": base} if base else {})).items():
        agree_on_text(first, other, ("policies_1", name), settings.accept_differences)
        _same_tensors(first, other, name)


def _same_tensors(first: Artifact, other: Artifact, name: str) -> None:
    from posttrain.training.weights import Weights

    mine, theirs = Weights(first.path), Weights(other.path)
    for tensor in [*mine, *theirs]:
        if tensor not in mine or tensor not in theirs:
            lacking = "policies_1" if tensor in theirs else name
            raise ContractError(f"merge: {lacking} has no tensor {tensor!r}; merge policies of one architecture")
        if mine.shape(tensor) != theirs.shape(tensor):
            raise ContractError(
                f"merge: {tensor} is {mine.shape(tensor)} in policies_1, {theirs.shape(tensor)} in {name}; "
                "merge policies of one architecture and size"
            )


def run(settings: MergeSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Merge tensor by tensor, into files laid out as the first policy's."""
    from posttrain.training.policy import copy_tokenizer
    from posttrain.training.weights import Weights, write_like

    first, base = parents.all("policies")[0], parents.maybe("base")
    policies = [Weights(policy.path) for policy in parents.all("policies")]
    origin = Weights(base.path) if base else None
    copy_tokenizer(first.path, out)
    for name in ("config.json", "model.safetensors.index.json"):
        if (first.path / name).is_file():
            shutil.copyfile(first.path / name, out / name)
    total = len(list(policies[0]))
    done = iter(range(1, total + 1))

    def merged(name: str) -> Tensor:
        tensor = _merge(settings, name, policies, origin)
        progress.update(next(done), total, "tensor")
        return tensor

    for file in policies[0].files:
        write_like(file, out / file.name, merged)
    return Work(facts=inspect_policy(out), counts={"policies": len(policies), "tensors": total})


def _merge(settings: MergeSettings, name: str, policies: list[Weights], base: Weights | None) -> Tensor:
    """One tensor of the merged policy, in the first policy's type.

    Raises:
        ContractError: it holds no plain floats and differs among the policies.
        PolicyError: the merge overflowed.
    """
    import torch

    first = policies[0][name]
    if first.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        if not all(torch.equal(first, other[name]) for other in policies[1:]):
            raise ContractError(f"merge: {name} is {first.dtype} and differs; merge policies that are not quantised")
        return first
    tensor = _formula(settings, name, policies, base).to(first.dtype)
    if not tensor.isfinite().all():
        raise PolicyError(f"merge: {name} is NaN or infinite in {first.dtype}; lower the weights")
    return tensor


def _formula(settings: MergeSettings, name: str, policies: list[Weights], base: Weights | None) -> Tensor:
    from posttrain.training import merging

    weights = settings.weights or [1.0] * len(policies)
    tensors = (policy[name].float() for policy in policies)
    if settings.method == "linear":
        return merging.linear(tensors, weights)
    if settings.method == "slerp":
        first, second = tensors
        return merging.slerp(first, second, weights[1] / sum(weights))
    assert base is not None  # `check` saw to it
    origin = base[name].float()
    vectors = (tensor - origin for tensor in tensors)
    if settings.method == "task_arithmetic":
        return origin + merging.task_arithmetic(vectors, weights)
    if settings.method == "ties":
        return origin + merging.ties(list(vectors), weights, settings.density)
    return origin + merging.dare(vectors, weights, settings.density, settings.seed, name)


STAGE = Stage(
    name="merge",
    output="policy",
    makes=Kind.POLICY,
    parents=PARENTS,
    settings=MergeSettings,
    run=run,
    check_settings=check_settings,
    check=check,
    method=lambda settings: settings.method,
    size=lambda parents: size_of(parents.all("policies")[0]),
)
