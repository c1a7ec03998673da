"""Merges policies in weight space, without a gradient: specialists of one family become one policy.

1. `posttrain.training.merging` holds the formulas; `linear` and `slerp` need the policies alone, the others the base
   that all of them were trained from.
2. Tensors are read, merged and written in pieces, in float32, and stored in the first policy's type and files.
3. Everything but the weights is the first policy's: config, tokenizer, chat template, generation config.
No trajectory is learned from, so there is no provenance. What the merge lost is for `evaluate` to say.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
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
    from numpy.typing import NDArray

    from posttrain.training.merging import Floats
    from posttrain.training.weights import Sink, Weights

Formula = Callable[[slice], "Floats"]  # a piece of a merged tensor

_PIECE = 2**18  # elements of a tensor at a time: what is computed with stays in a core's cache
_SAMPLED = 2**20  # entries of a tensor that decide what TIES keeps of it
_MOST_THREADS = 8
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
    from posttrain.training.weights import Weights, is_float

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
        types = (mine.type(tensor), theirs.type(tensor))
        if is_float(types[0]) != is_float(types[1]):
            raise ContractError(
                f"merge: {tensor} is {types[0]} in policies_1, {types[1]} in {name}; merge none that is quantised"
            )


def run(settings: MergeSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Merge piece by piece, into files laid out as the first policy's."""
    from posttrain.training.policy import copy_tokenizer
    from posttrain.training.weights import Weights, reuse_freed_memory, written_like

    reuse_freed_memory()
    first, base = parents.all("policies")[0], parents.maybe("base")
    policies = [Weights(policy.path) for policy in parents.all("policies")]
    origin = Weights(base.path) if base else None
    copy_tokenizer(first.path, out)
    for name in ("config.json", "model.safetensors.index.json"):
        if (first.path / name).is_file():
            shutil.copyfile(first.path / name, out / name)
    total = len(list(policies[0]))
    done = iter(range(1, total + 1))
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS)) as pool, ThreadPoolExecutor(1) as ahead:
        for file in policies[0].files:
            with written_like(file, out / file.name) as sink:
                formulas = (ahead.submit(_formula, settings, name, policies, origin, pool) for name in sink)
                for name, formula in zip(sink, _one_ahead(formulas), strict=True):
                    _merge(name, policies, formula.result(), sink, pool)
                    sink.send(name)
                    progress.update(next(done), total, "tensor")
    return Work(facts=inspect_policy(out), counts={"policies": len(policies), "tensors": total})


def _one_ahead(futures: Iterator[Future[Formula | None]]) -> Iterator[Future[Formula | None]]:
    """The same futures, each once the next one is submitted: what it reads is read while this one's is computed."""
    waiting = next(futures, None)
    while waiting:
        following = next(futures, None)
        yield waiting
        waiting = following


def _merge(name: str, policies: list[Weights], formula: Formula | None, sink: Sink, pool: Executor) -> None:
    """Write one tensor of the merged policy, in the first policy's type.

    Raises:
        ContractError: it holds no plain floats and differs among the policies.
        PolicyError: the merge overflowed.
    """
    from posttrain.training.weights import all_finite, stored_as

    stored_type = policies[0].type(name)
    if not formula:
        same = policies[0].bytes(name)
        if any((other.bytes(name) != same).any() for other in policies[1:]):
            raise ContractError(f"merge: {name} is {stored_type} and differs; merge policies that are not quantised")
        sink.write(name, 0, same)
        return

    def merged(piece: slice) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # answered below
            values = stored_as(stored_type, formula(piece))
        if not all_finite(stored_type, values):
            raise PolicyError(f"merge: {name} is NaN or infinite in {stored_type}; lower the weights")
        sink.write(name, piece.start, values)

    list(pool.map(merged, _pieces(math.prod(policies[0].shape(name)))))  # to hear of errors


def _formula(
    settings: MergeSettings, name: str, policies: list[Weights], base: Weights | None, pool: Executor
) -> Formula | None:
    """What is to be computed, and with it what has to be known of the whole tensor; None unless it holds floats."""
    from posttrain.training import merging
    from posttrain.training.weights import is_float

    if not is_float(policies[0].type(name)):
        return None
    size = math.prod(policies[0].shape(name))
    weights, method, density = settings.weights or [1.0] * len(policies), settings.method, settings.density
    if method == "linear":
        return lambda piece: merging.linear((policy.floats(name, piece) for policy in policies), weights)
    if method == "slerp":
        first, second = policies

        def products(piece: slice) -> NDArray[np.float64]:
            return merging.products(first.floats(name, piece), second.floats(name, piece))

        whole = sum(pool.map(products, _pieces(size)), start=np.zeros(3))
        shares = merging.slerp_shares(whole, weights[1] / sum(weights))
        return lambda piece: merging.task_arithmetic((policy.floats(name, piece) for policy in policies), shares)
    assert base is not None  # `check` saw to it

    bounds = [0.0] * len(policies)
    if method == "ties" and density < 1:
        bounds = _bounds(name, policies, base, size, density, pool)

    def moved(piece: slice) -> Floats:
        origin = base.floats(name, piece)
        vectors = (policy.floats(name, piece) - origin for policy in policies)
        if method == "task_arithmetic":
            origin += merging.task_arithmetic(vectors, weights)
        elif method == "ties":
            origin += merging.ties(list(vectors), weights, bounds)
        else:
            origin += merging.dare(vectors, weights, density, [settings.seed, name, piece.start])
        return origin

    return moved


def _bounds(
    name: str, policies: list[Weights], base: Weights, size: int, density: float, pool: Executor
) -> list[float]:
    """The magnitude of the smallest entry that TIES keeps of each task vector.

    Of a large tensor every n-th entry is looked at, from another start in each piece, so that no column is preferred:
    half a million entries and more meet the share within two thousandths (three standard deviations).
    """
    from posttrain.training import merging

    step = max(1, size // _SAMPLED)
    looks = [
        slice(piece.start + number % min(step, piece.stop - piece.start), piece.stop, step)
        for number, piece in enumerate(_pieces(size))
    ]

    def magnitudes(piece: slice) -> list[Floats]:
        origin = base.floats(name, piece)
        return [np.abs(policy.floats(name, piece) - origin) for policy in policies]

    by_policy = zip(*pool.map(magnitudes, looks), strict=True)
    return list(pool.map(lambda found: merging.bound_of(np.concatenate(found), density), by_policy))


def _pieces(size: int) -> list[slice]:
    return [slice(start, min(start + _PIECE, size)) for start in range(0, size, _PIECE)]


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
    image="control",
    size=lambda parents: size_of(parents.all("policies")[0]),
    measures=False,
)
