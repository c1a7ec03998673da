"""Merging: the formulas against references written another way, and the stage on policies in shards."""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from posttrain.components.catalogue import load_stage
from transformers import AutoModelForCausalLM

from posttrain.errors import ConfigError, ContractError
from posttrain.generation.transformers import load_policy
from posttrain.training import merging
from posttrain.training.weights import Weights
from tests.made import refused
from tests.tiny import tiny_policy
from tests.training.jobs import base, record, run, weights


@pytest.fixture
def vectors() -> list[torch.Tensor]:
    return list(torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0)))


def ties_entry(values: list[float], shares: list[float], bounds: list[float]) -> float:
    """One entry of TIES by cases: which policies still have it, which side wins, the winners' weighted mean."""
    kept = [(value, share) for value, share, bound in zip(values, shares, bounds, strict=True) if abs(value) >= bound]
    positive = sum(share * value for value, share in kept if value > 0)
    negative = sum(share * value for value, share in kept if value < 0)
    winners = [(value, share) for value, share in kept if value * (positive + negative) > 0]
    return sum(v * s for v, s in winners) / sum(s for _, s in winners) if winners else 0.0


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties(vectors: list[torch.Tensor], density: float) -> None:
    shares = [1.0, 0.5, 2.0]
    flat = [vector.flatten().tolist() for vector in vectors]
    bounds = [sorted(map(abs, values), reverse=True)[round(density * len(values)) - 1] for values in flat]
    expected = [ties_entry(list(values), shares, bounds) for values in zip(*flat, strict=True)]
    assert merging.ties(vectors, shares, density).flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_task_arithmetic(vectors: list[torch.Tensor]) -> None:
    scales = [0.3, -0.2, 1.0]
    expected = np.einsum("i,ijk->jk", scales, np.stack([vector.numpy() for vector in vectors]))
    np.testing.assert_allclose(merging.task_arithmetic(vectors, scales).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_dare_keeps_a_seeded_share_and_the_expectation() -> None:
    ones = torch.ones(200, 200)
    thinned = merging.dare([ones], [1.0], 0.25, seed=1, name="w")
    assert set(thinned.unique().tolist()) == {0.0, 4.0}
    assert abs(float(thinned.mean()) - 1) < 5 * math.sqrt(3 / ones.numel()), "the mean of Bernoulli(1/4) × 4"
    assert torch.equal(thinned, merging.dare([ones], [1.0], 0.25, seed=1, name="w"))
    other_draws = [merging.dare([ones], [1.0], 0.25, seed, name) for seed, name in ((2, "w"), (1, "v"))]
    assert not any(torch.equal(thinned, other) for other in other_draws)
    two = merging.dare([ones, ones], [1.0, 10.0], 0.25, seed=1, name="w")
    assert set(two.unique().tolist()) == {0.0, 4.0, 40.0, 44.0}, "each vector draws for itself"


def test_slerp_follows_the_arc(vectors: list[torch.Tensor]) -> None:
    first, second = (vector / vector.norm() for vector in vectors[:2])
    angle = math.acos(float((first * second).sum()))
    for share in (0.0, 0.25, 1.0):
        between = merging.slerp(first, second, share)
        assert float(between.norm()) == pytest.approx(1, abs=1e-5), "it stays on the sphere"
        assert float((first * between).sum()) == pytest.approx(math.cos(share * angle), abs=1e-5)
    assert torch.equal(merging.slerp(first, torch.zeros_like(first), 0.5), first / 2)


def sharded(out: Path, seed: int) -> Path:
    """A tiny policy in bfloat16, in several files."""
    model = tiny_policy(out.with_name(f"{out.name}.whole"), "llama", seed=seed)
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    whole.save_pretrained(model, max_shard_size="20KB")
    (model / "model.safetensors").unlink(missing_ok=True)
    assert len(list(model.glob("*.safetensors"))) > 2
    return run("base", out, {"uri": str(model)})


def test_linear_is_the_mean_exactly_and_a_policy_like_the_first(tmp_path: Path) -> None:
    first, second = (base(tmp_path / f"p{seed}", "qwen2", seed=seed, chat_template=True) for seed in (0, 1))
    soup = run("merge", tmp_path / "soup", {}, policies=[first, second])
    mine, other, merged = (weights(policy) for policy in (first, second, soup))
    assert all(torch.equal(merged[name], (mine[name] + other[name]) / 2) for name in mine)
    assert {file.name for file in soup.iterdir()} == {file.name for file in first.iterdir()}
    assert record(soup).facts.items() <= record(first).facts.items()
    assert (record(soup).trace, record(soup).role, record(soup).method) == (None, "consolidation", "linear")
    model, _ = load_policy(soup)
    assert torch.equal(model.state_dict()["model.norm.weight"], merged["model.norm.weight"])


@pytest.mark.parametrize("method", ["linear", "slerp", "task_arithmetic", "ties", "dare"])
def test_every_method_on_shards_reads_one_tensor_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    policies = [sharded(tmp_path / f"p{seed}", seed) for seed in (0, 1)]
    origin = {} if method in ("linear", "slerp") else {"base": sharded(tmp_path / "base", 2)}
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    at_once: list[int] = []
    read = Weights.__getitem__

    def watched(self: Weights, name: str) -> torch.Tensor:
        tensor = read(self, name)
        alive.add(tensor)
        at_once.append(sum(each.nbytes for each in alive))
        return tensor

    monkeypatch.setattr(Weights, "__getitem__", watched)
    settings: dict[str, Any] = {"method": method, "weights": [0.5, 0.25], "density": 1.0}
    merged = run("merge", tmp_path / "merged", settings, policies=policies, **origin)
    monkeypatch.undo()
    parents = [weights(policy) for policy in [*policies, *origin.values()]]
    assert max(at_once) <= 2 * len(parents) * max(tensor.nbytes for tensor in parents[0].values())
    assert max(at_once) < sum(tensor.nbytes for tensor in parents[0].values()), "less than one model of several"
    assert [file.name for file in sorted(merged.iterdir())] == [file.name for file in sorted(policies[0].iterdir())]
    result = weights(merged)
    for name, tensor in expected(method, *parents).items():
        assert result[name].dtype == torch.bfloat16
        torch.testing.assert_close(result[name], tensor.bfloat16(), msg=name)


def expected(method: str, *parents: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a merge with the weights 1/2 and 1/4 and nothing trimmed comes to."""
    result = {}
    for name in parents[0]:
        first, second, *origin = (parent[name].double() for parent in parents)
        if method in ("linear", "slerp"):
            straight = first * 2 / 3 + second / 3
            result[name] = straight if method == "linear" else arc(first, second, 1 / 3)
        else:
            deltas = torch.stack([first - origin[0], second - origin[0]])
            scales = torch.tensor([0.5, 0.25]).double().reshape(2, *[1] * first.dim())
            if method == "ties":
                scales = scales * (deltas.sign() == (scales * deltas).sum(0).sign())
                scales = scales / scales.sum(0).clamp(min=1e-9)
            result[name] = origin[0] + (scales * deltas).sum(0)
    return result


def arc(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    """The same point by a rotation in the plane of the two."""
    if torch.equal(first, second):
        return first
    length, other = first.norm(), second.norm()
    x = first / length
    rest = second / other - (second / other * x).sum() * x
    angle = torch.atan2(rest.norm(), (second / other * x).sum())
    a, b = torch.sin((1 - share) * angle), torch.sin(share * angle)
    along = a * length + b * other * torch.cos(angle)
    return (along * x + b * other * torch.sin(angle) * rest / rest.norm()) / torch.sin(angle)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("merge")
    names: dict[str, dict[str, Any]] = {
        "one": {},
        "two": {"seed": 1},
        "wide": {"intermediate_size": 128},
        "deep": {"num_hidden_layers": 3},
        "chat": {"chat_template": True},
    }
    return {name: base(home / name, "llama", **changes) for name, changes in names.items()}


REFUSED: dict[str, tuple[dict[str, Any], list[str], str, str]] = {
    "one policy": ({}, ["one"], "", "method=linear takes 2 to 8 policies, not 1"),
    "three for slerp": ({"method": "slerp"}, ["one", "two", "one"], "", "takes 2 to 2 policies, not 3"),
    "no base": ({"method": "ties"}, ["one", "two"], "", "method=ties needs a parent 'base'"),
    "an idle base": ({"method": "slerp"}, ["one", "two"], "one", "method=slerp uses no parent 'base'"),
    "weights": ({"weights": [1.0]}, ["one", "two"], "", "1 weights for 2 policies"),
    "widths": ({}, ["one", "two", "wide"], "", "layers.0.mlp.down_proj.weight is [32, 64] in policies_1, [32, 128]"),
    "depths": ({}, ["one", "deep"], "", "policies_1 has no tensor 'model.layers.2."),
    "depth of the base": ({"method": "dare"}, ["deep", "deep"], "one", "base has no tensor 'model.layers.2."),
    "templates": ({}, ["one", "chat"], "", "chat_template differs between policies_1 (none) and policies_2"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, made: dict[str, Path], case: str) -> None:
    settings, policies, origin, complaint = REFUSED[case]
    parents = {"policies": [made[name] for name in policies]} | ({"base": [made[origin]]} if origin else {})
    refused("merge", parents, settings, tmp_path / "x" / "out", ContractError, complaint)


@pytest.mark.parametrize("shares", [[1.0, -0.5], [0.0, 0.0]])
def test_shares_of_an_average_are_refused_when_a_recipe_is_compiled(shares: list[float]) -> None:
    stage = load_stage("merge")
    with pytest.raises(ConfigError, match="no shares of an average"):
        stage.check_settings(stage.settings(weights=shares))
    stage.check_settings(stage.settings(weights=shares, method="task_arithmetic"))
