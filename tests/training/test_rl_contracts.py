"""RL's reference, curricula and global advantages: what they do, and the contradictions that are refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from posttrain.components.catalogue import load_stages
from posttrain.components.rl.plan import arranged, solve_rates

from posttrain import verifiers
from posttrain.artifacts.problems import Problem
from posttrain.errors import ConfigError, ContractError, PosttrainError, RecipeError, VerifierError
from posttrain.recipes.load import parse_recipe
from posttrain.taxonomy import Kind
from posttrain.training.global_advantages import NormalisesGlobally
from tests.made import artifact, refused
from tests.training.jobs import base, prepared, record, run, same_weights

LETTERS = [{"id": f"p{n}", "prompt": f"{n}:", "verifier": "exact", "reference": "ab"[n % 2]} for n in range(4)]
BRIEF: dict[str, Any] = {"batch_size": 16, "group_size": 8, "max_new_tokens": 1, "logging_steps": 1, "max_steps": 4}
FAST = BRIEF | {"learning_rate": 1e-2, "kl": 0.01}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("contracts")
    base(home / "init", "llama", characters="ab0123:")
    base(home / "other", "llama", characters="ab0123:", seed=1)
    base(home / "larger", "llama", characters="ab0123:", intermediate_size=96)
    problems = prepared(home / "problems", LETTERS, "problems")
    prepared(home / "others", LETTERS[:2], "problems")
    prepared(home / "demos", [{"prompt": "0:", "completion": "a"}], "trajectories")
    measure = {"samples": 16, "max_new_tokens": 1, "trained_on": True}
    run("evaluate", home / "measured", measure, policy=home / "init", problems=problems)
    run("evaluate", home / "elsewhere", measure, policy=home / "init", problems=home / "others")
    return home


def trained(home: Path, out: Path, settings: dict[str, Any], **more: Path) -> Path:
    return run("rl", out, settings, init=home / "init", problems=home / "problems", **more)


def kl(policy: Path) -> list[float]:
    return [value for _, value in record(policy).curves["kl"]]


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_a_reset_makes_the_reference_the_current_policy(home: Path, tmp_path: Path, method: str) -> None:
    free = kl(trained(home, tmp_path / "free", FAST | {"method": method}))
    reset = kl(trained(home, tmp_path / "reset", FAST | {"method": method, "reference_reset_steps": 2}))
    assert free[0] == reset[0] == pytest.approx(0, abs=1e-6)
    assert free[1] == reset[1] != 0
    assert reset[2] == pytest.approx(0, abs=1e-6), "after two steps it is where the policy is"
    assert abs(free[2]) > 1e-3
    assert reset[3] != 0


def test_another_reference_is_what_the_policy_is_near_to(home: Path, tmp_path: Path) -> None:
    own = trained(home, tmp_path / "own", FAST)
    same = trained(home, tmp_path / "same", FAST, reference=home / "init")
    far = trained(home, tmp_path / "far", FAST, reference=home / "other")
    assert same_weights(own, same), "a reference that is init changes nothing"
    assert kl(far)[0] > 0.1 > kl(own)[0]
    pulled = trained(home, tmp_path / "pulled", FAST | {"kl": 10.0, "max_steps": 30}, reference=home / "other")
    assert kl(pulled)[-1] < kl(pulled)[0] / 4


def problems(*names: str) -> list[Problem]:
    return [Problem(id=name, prompt=name, verifier="exact", reference="1") for name in names]


def test_curricula_keep_and_order_and_count_what_they_leave_out() -> None:
    asked = problems("never", "rare", "often", "always", "unknown")
    rates = {"never": 0.0, "rare": 0.1, "often": 0.9, "always": 1.0}
    names = lambda arrangement: [problem.id for problem in arrangement[0]]  # noqa: E731
    assert arranged(asked, "none", {}, (), 2) == (asked, {})
    edge = arranged(asked, "edge", rates, (), 2)
    assert (names(edge), edge[1]) == (["rare", "often"], {"unmeasured": 1, "never_solved": 1, "always_solved": 1})
    hinted = arranged(asked, "edge", rates, {"never"}, 2)
    assert (names(hinted), hinted[1]["never_solved"]) == (["never", "rare", "often"], 0)
    ordered = arranged(asked, "easy_to_hard", rates, (), 2)
    assert (names(ordered), ordered[1]["remainder"]) == (["always", "often", "rare", "never"], 0)
    uneven = arranged(asked, "easy_to_hard", rates, (), 3)
    assert (names(uneven), uneven[1]["remainder"]) == (["often", "rare", "never"], 1), "never the hardest"


def test_easy_to_hard_is_the_order_of_training(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    verify = verifiers.verify
    monkeypatch.setattr(verifiers, "verify", lambda *known: asked.append(known[3]) or verify(*known))
    settings = BRIEF | {"curriculum": "easy_to_hard", "batch_size": 8, "epochs": 1, "max_steps": 0}
    made = record(trained(home, tmp_path / "rl", settings, evaluation=home / "measured"))
    measured, source = artifact(home / "measured", Kind.EVALUATION), artifact(home / "problems", Kind.PROBLEMS)
    rates = solve_rates(measured, source)
    seen = [rates[f"p{prompt[0]}"] for prompt in asked]
    assert seen == sorted(seen, reverse=True)
    assert len(set(asked)) == 4
    assert made.counts["problems"] == 4


class FakeTrainer:
    def __init__(self, batch: dict[str, Any], beta: float) -> None:
        self.beta, self._batch, self._metrics = beta, batch, {"train": {"kl": []}}
        self.accelerator = SimpleNamespace(device="cpu", reduce=lambda values, reduction: values)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        return self._batch

    def _compute_loss(self, model: Any, inputs: Any) -> float:
        return self.beta


class Fake(NormalisesGlobally, FakeTrainer):
    pass


def test_advantages_are_those_of_the_paper() -> None:
    nan = float("nan")
    batch = {
        "completion_mask": torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1]]),
        "rewards": torch.tensor([1.0, 0.0, 0.5, nan]),
        "baselines": torch.tensor([0.5, 0.5, 0.5, 0.5]),
        "old_per_token_logps": torch.tensor([[-1.0, -2.0], [-1.0, 0.0], [-1.0, -1.0], [-1.0, -1.0]]),
        "ref_per_token_logps": torch.tensor([[-2.0, -1.0], [-1.5, -9.0], [-1.0, -1.0], [-1.0, -1.0]]),
    }
    plain = Fake(batch, 0.2, group_baseline=False)
    # r − β · (the log-ratios that are still to come), at each of the five tokens that count
    tokens = torch.tensor([1.0 - 0.2 * (1 - 1), 1.0 - 0.2 * -1, 0.0 - 0.2 * 0.5, 0.5, 0.5])
    expected = (tokens - tokens.mean()) / (tokens.std(correction=0) + 1e-4)
    made = plain._generate_and_score_completions([])["advantages"]
    assert torch.allclose(made[[0, 0, 1, 2, 2], [0, 1, 0, 0, 1]], expected, atol=1e-6)
    assert made[1, 1] == 0
    assert made[3].tolist() == [0, 0], "unscorable, or not a token"
    assert (plain._compute_loss(None, None), plain.beta) == (0.0, 0.2), "the penalty is not in the loss again"
    centred = torch.tensor([0.5, 0.5, -0.5, 0.0, 0.0])
    with_group = Fake(batch, 0.2, group_baseline=True)
    made = with_group._generate_and_score_completions([])["advantages"]
    expected = (centred - centred.mean()) / (centred.std(correction=0) + 1e-4)
    assert torch.allclose(made[[0, 0, 1, 2, 2], [0, 1, 0, 0, 1]], expected, atol=1e-6)
    assert with_group._compute_loss(None, None) == 0.2


def test_rewards_that_are_all_alike_are_no_advantage() -> None:
    batch = {"completion_mask": torch.ones(7, 3), "rewards": torch.full((7,), 0.3), "baselines": torch.full((7,), 0.3)}
    made = Fake(batch, 0.0, group_baseline=False)._generate_and_score_completions([])["advantages"]
    assert made.abs().max() < 1e-2


def test_reinforce_pp_logs_its_penalty(home: Path, tmp_path: Path) -> None:
    made = kl(trained(home, tmp_path / "rl", FAST | {"method": "reinforce_pp"}))
    assert made[0] == pytest.approx(0, abs=1e-5)
    assert len(made) == 4


@pytest.mark.parametrize(
    ("settings", "parents", "error", "complaint"),
    [
        ({"reference_reset_steps": 2}, {}, ConfigError, "reference_reset_steps=2 with kl=0, which has no reference"),
        ({"reference_reset_steps": 2, "kl": 0.1, "lora_rank": 2}, {}, ConfigError, "with lora_rank=2: an adapter's"),
        ({}, {"reference": "init"}, ContractError, "a parent 'reference' with kl=0"),
        ({"kl": 0.1, "lora_rank": 2}, {"reference": "other"}, ContractError, "with an adapter; set lora_rank=0"),
        ({"kl": 0.1}, {"reference": "larger"}, ContractError, "parameters of init is"),
        ({"trainer_args": {"beta": 0.1}}, {}, ConfigError, "trainer_args.beta=0.1: the stage has a setting"),
        ({"method": "gspo", "trainer_args": {"loss_type": "dapo"}}, {}, ConfigError, "method=gspo, which is loss_type"),
        (
            {"method": "luspo", "trainer_args": {"importance_sampling_level": "token"}},
            {},
            ConfigError,
            "method=luspo, which is importance_sampling_level='sequence'",
        ),
        ({"curriculum": "edge"}, {}, ContractError, "curriculum=edge needs a parent 'evaluation'"),
        ({}, {"evaluation": "measured"}, ContractError, "a parent 'evaluation' and nothing that uses it"),
        ({"curriculum": "edge"}, {"evaluation": "elsewhere"}, ContractError, "was made on other problems"),
        ({"hint_share": 0.5}, {}, ContractError, "hint_share is set, but there is no parent 'hints'"),
        ({"max_resampling": 2}, {}, ConfigError, "max_resampling=2 without dynamic sampling"),
        ({"method": "dapo", "trainer_args": {"scale_rewards": "batch"}}, {}, ConfigError, "with dynamic sampling: TRL"),
        (
            {"trainer_args": {"use_vllm": True, "vllm_importance_sampling_correction": False}},
            {},
            ConfigError,
            "uncorrected rollouts are not its own",
        ),
        ({"group_size": 6}, {}, ConfigError, "batch_size × accumulation = 16 is not a multiple of group_size=6"),
        ({}, {"data": "demos"}, ContractError, "no parent is called 'data'; rl samples its own trajectories"),
    ],
)
def test_contradictions_are_refused(
    home: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    parents: dict[str, str],
    error: type[PosttrainError],
    complaint: str,
) -> None:
    given = {"init": [home / "init"], "problems": [home / "problems"]} | {r: [home / n] for r, n in parents.items()}
    refused("rl", given, BRIEF | settings, tmp_path / "x" / "out", error, complaint)


def test_a_compiled_pipeline_sets_every_setting_to_its_default(home: Path, tmp_path: Path) -> None:
    settings = load_stages()["rl"].settings(**BRIEF).model_dump(exclude={"name", "role"})
    assert same_weights(trained(home, tmp_path / "all", settings), trained(home, tmp_path / "brief", BRIEF))


def test_a_recipe_that_gives_rl_fixed_trajectories_is_told_what_to_use() -> None:
    text = """
name: wrong
title: RL from fixed trajectories
inputs: {base: {help: a model}, problems: {help: problems}, demos: {help: demonstrations}}
stages:
  base_policy: {use: base, with: {uri: "${base}"}}
  train_problems: {use: prepare, with: {uri: "${problems}", kind: problems}}
  demos: {use: prepare, with: {uri: "${demos}", kind: trajectories}}
  rl_policy: {use: rl, parents: {init: base_policy, problems: train_problems, data: demos}}
"""
    with pytest.raises(RecipeError, match=r"rl takes no parent 'data'; rl samples its own trajectories; learn from"):
        parse_recipe(text, "wrong.yaml", load_stages())


def test_who_verified_is_recorded_and_a_judge_that_is_not_configured_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trained(home, tmp_path / "out", FAST | {"max_steps": 1})
    assert record(made).facts["verifiers"].startswith("exact@")
    monkeypatch.delenv("POSTTRAIN_JUDGE_URL", raising=False)
    rows = [{"prompt": f"{n}:", "verifier": "judge", "reference": {"criteria": "short"}} for n in range(4)]
    problems = prepared(tmp_path / "judged", rows, "problems")
    parents = {"init": [home / "init"], "problems": [problems]}
    refused("rl", parents, FAST, tmp_path / "refused", VerifierError, "POSTTRAIN_JUDGE_URL is not set")
