"""Merging: the formulas against references written another way, and the stage on policies in shards."""

from __future__ import annotations

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from posttrain.components.catalogue import load_stage
from posttrain.components.merge import stage
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from posttrain.errors import ConfigError, ContractError, PolicyError
from posttrain.generation.transformers import load_policy
from posttrain.training import merging
from posttrain.training import weights as weights_module
from posttrain.training.merging import Floats
from posttrain.training.weights import Weights
from tests.made import refused
from tests.tiny import tiny_policy
from tests.training.jobs import base, record, run, same_weights, weights


@pytest.fixture
def vectors() -> list[Floats]:
    return list(np.random.default_rng(0).standard_normal((3, 30), np.float32))


def ties_entry(values: list[float], shares: list[float], bounds: list[float]) -> float:
    """One entry of TIES by cases: which policies still have it, which side wins, the winners' weighted mean."""
    kept = [(value, share) for value, share, bound in zip(values, shares, bounds, strict=True) if abs(value) >= bound]
    positive = sum(share * value for value, share in kept if value > 0)
    negative = sum(share * value for value, share in kept if value < 0)
    winners = [(value, share) for value, share in kept if value * (positive + negative) > 0]
    return sum(v * s for v, s in winners) / sum(s for _, s in winners) if winners else 0.0


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties(vectors: list[Floats], density: float) -> None:
    shares = [1.0, 0.5, 2.0]
    flat = [vector.tolist() for vector in vectors]
    bounds = [sorted(map(abs, values), reverse=True)[round(density * len(values)) - 1] for values in flat]
    expected = [ties_entry(list(values), shares, bounds) for values in zip(*flat, strict=True)]
    assert merging.ties(vectors, shares, bounds).tolist() == pytest.approx(expected, rel=1e-5)


def test_ties_elects_no_side_of_a_tie() -> None:
    one = np.array([1.0, 1.0, 0.0], np.float32)
    assert merging.ties([one, -one * [1, 2, 1]], [1.0, 1.0], [0.0, 0.0]).tolist() == [0.0, -2.0, 0.0]


@pytest.mark.parametrize("sampled", [100, 10**6])
def test_the_bounds_of_ties_meet_the_density(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampled: int) -> None:
    """Of all entries exactly; of a sample within its error, also where a column is of another size."""
    rows = torch.randn(3, 200, 50, generator=torch.Generator().manual_seed(0)) * (1 + 9 * (torch.arange(50) == 3))
    opened = []
    for number, tensor in enumerate(rows):
        (tmp_path / str(number)).mkdir()
        save_file({"w": tensor}, tmp_path / str(number) / "model.safetensors")
        opened.append(Weights(tmp_path / str(number)))
    monkeypatch.setattr(stage, "_PIECE", 64)
    monkeypatch.setattr(stage, "_SAMPLED", sampled)
    with ThreadPoolExecutor(2) as pool:
        bounds = stage._bounds("w", opened[1:], opened[0], rows[0].numel(), 0.2, pool)
    for bound, tensor in zip(bounds, rows[1:], strict=True):
        kept = float(((tensor - rows[0]).abs() >= bound).double().mean())
        assert kept == 0.2 if sampled > rows[0].numel() else kept == pytest.approx(0.2, abs=0.12)


def test_task_arithmetic(vectors: list[Floats]) -> None:
    scales = [0.3, -0.2, 1.0]
    expected = np.einsum("i,ij->j", scales, np.stack(vectors))
    np.testing.assert_allclose(merging.task_arithmetic(vectors, scales), expected, rtol=1e-5, atol=1e-6)


def test_dare_keeps_a_seeded_share_and_the_expectation() -> None:
    ones = np.ones(40_001, np.float32)
    thinned = merging.dare([ones], [1.0], 0.25, [1, "w", 0])
    assert set(thinned.tolist()) == {0.0, 4.0}
    assert abs(float(thinned.mean()) - 1) < 5 * math.sqrt(3 / ones.size), "the mean of Bernoulli(1/4) × 4"
    assert np.array_equal(thinned, merging.dare([ones], [1.0], 0.25, [1, "w", 0]))
    others = [merging.dare([ones], [1.0], 0.25, draw) for draw in ([2, "w", 0], [1, "v", 0], [1, "w", 9])]
    assert not any(np.array_equal(thinned, other) for other in others)
    two = merging.dare([ones, ones], [1.0, 10.0], 0.25, [1, "w", 0])
    assert set(two.tolist()) == {0.0, 4.0, 40.0, 44.0}, "each vector draws for itself"
    rare = merging.dare([ones], [1.0], 1e-9, [1, "w", 0])
    assert set(rare.tolist()) <= {0.0, 65536.0}


def test_slerp_follows_the_arc(vectors: list[Floats]) -> None:
    first, second = (vector / np.linalg.norm(vector) for vector in vectors[:2])
    angle = math.acos(float(first @ second))
    for share in (0.0, 0.25, 1.0):
        between = merging.task_arithmetic([first, second], merging.slerp_shares(merging.products(first, second), share))
        assert float(np.linalg.norm(between)) == pytest.approx(1, abs=1e-5), "it stays on the sphere"
        assert float(first @ between) == pytest.approx(math.cos(share * angle), abs=1e-5)
    assert merging.slerp_shares(merging.products(first, first * 0), 0.25) == (0.75, 0.25)


@pytest.mark.parametrize("stored", ["BF16", "F16", "F32", "F64"])
def test_floats_are_stored_as_torch_rounds_them(stored: str) -> None:
    dtype = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}[stored]
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    values = np.concatenate([bits.view(np.float32), np.array([0.0, -0.0, 3.4e38, 1e-45, 65520.0], np.float32)])
    values = values[np.isfinite(values)]
    ours, theirs = weights_module.stored_as(stored, values), torch.from_numpy(values).to(dtype)
    assert ours.tobytes() == theirs.view(torch.uint8).numpy().tobytes()
    assert weights_module.all_finite(stored, ours) == bool(theirs.isfinite().all())
    assert weights_module.all_finite(stored, ours[theirs.isfinite().numpy()])


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
def test_every_method_on_shards_reads_a_piece_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    policies = [sharded(tmp_path / f"p{seed}", seed) for seed in (0, 1)]
    origin = {} if method in ("linear", "slerp") else {"base": sharded(tmp_path / "base", 2)}
    read: list[int] = []
    floats = Weights.floats

    def watched(self: Weights, name: str, piece: slice) -> Floats:
        read.append(piece.stop - piece.start)
        return floats(self, name, piece)

    monkeypatch.setattr(Weights, "floats", watched)
    monkeypatch.setattr(stage, "_PIECE", 500)
    settings: dict[str, Any] = {"method": method, "weights": [0.5, 0.25], "density": 1.0}
    merged = run("merge", tmp_path / "merged", settings, policies=policies, **origin)
    monkeypatch.undo()
    parents = [weights(policy) for policy in [*policies, *origin.values()]]
    assert max(read) == 500 < max(tensor.numel() for tensor in parents[0].values())
    assert [file.name for file in sorted(merged.iterdir())] == [file.name for file in sorted(policies[0].iterdir())]
    result = weights(merged)
    for name, tensor in expected(method, *parents).items():
        assert result[name].dtype == torch.bfloat16
        torch.testing.assert_close(result[name], tensor.bfloat16(), msg=name)
    whole = run("merge", tmp_path / "whole", settings, policies=policies, **origin)
    assert same_weights(whole, merged) or method == "slerp", "pieces change nothing but the last bits of an angle"


def test_a_merge_needs_no_torch_and_little_memory(tmp_path: Path) -> None:
    policies = [sharded(tmp_path / f"p{seed}", seed) for seed in (0, 1)]
    arguments = [str(path) for path in (*policies, tmp_path / "merged")]
    code = (
        "import sys; from pathlib import Path; from posttrain.components.catalogue import load_stage;"
        "from posttrain.stage import execute; one, two, out = map(Path, sys.argv[1:]);"
        "execute(load_stage('merge'), {'policies': [one, two]}, {}, out); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_what_is_too_large_to_store_is_refused(tmp_path: Path) -> None:
    policies = [sharded(tmp_path / f"p{seed}", seed) for seed in (0, 1)]
    parents = {"policies": policies, "base": [sharded(tmp_path / "base", 2)]}
    settings = {"method": "task_arithmetic", "weights": [3e38, 3e38]}
    refused("merge", parents, settings, tmp_path / "x" / "out", PolicyError, "is NaN or infinite in BF16; lower the")


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
    merge = load_stage("merge")
    with pytest.raises(ConfigError, match="no shares of an average"):
        merge.check_settings(merge.settings(weights=shares))
    merge.check_settings(merge.settings(weights=shares, method="task_arithmetic"))
