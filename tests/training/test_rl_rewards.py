"""Rewards are named terms: each logged, weighed, and refused without what it needs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from posttrain.artifacts.artifact import open_artifact
from posttrain.artifacts.problems import Problem
from posttrain.errors import ConfigError, ContractError, PosttrainError
from posttrain.stage import Parents
from posttrain.taxonomy import Kind
from posttrain.training.reward import load_reward_models
from posttrain.training.rewards import TERMS, Rollouts, reward_arguments
from tests.made import refused
from tests.training.jobs import base, prepared, record, run

SUMS = [{"prompt": f"{n}+1=", "verifier": "exact", "reference": [*"0123456789"]} for n in range(4)]
BRIEF: dict[str, Any] = {"batch_size": 8, "group_size": 4, "max_new_tokens": 4, "logging_steps": 1, "max_steps": 1}


def scored(term: str, answers: list[str], **settings: Any) -> list[float | None]:
    """What a term says of answers to the first problem, as text and as messages."""
    known = {"rewards": {term: 1.0}, "max_new_tokens": 8} | settings
    rollouts = Rollouts([Problem(id="p", **SUMS[0])], SimpleNamespace(**known), Parents({}), Counter())
    ((function,), (tokenizer,)) = reward_arguments(rollouts).values()
    assert (function.__name__, tokenizer) == (term, None)
    columns = {"problem": [0] * len(answers), "completion_ids": [[*map(ord, text)] for text in answers]}
    messages = [[{"role": "assistant", "content": text}] for text in answers]
    told = function(completions=answers, **columns)
    assert function(completions=messages, **columns) == told
    return told


def test_each_term_says_what_its_paper_does() -> None:
    assert scored("verifier", ["7", "x"]) == [1, 0]
    think = "<think>.*</think>.+"
    assert scored("format", ["<think>\n</think>7", "7", "<think></think>"], format_pattern=think) == [1, 0, 0]
    overlong = scored("length", ["a" * n for n in (4, 5, 6, 8)], overlong_tokens=4)
    assert overlong == [0, -0.25, -0.5, -1], "DAPO, eq. 13"
    assert scored("repetition", ["abcdef", "aaaaaa", "ab"]) == [0, -0.75, 0]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, problems, and two reward models that were trained a step each from different weights."""
    home = tmp_path_factory.mktemp("terms")
    pairs = [{"prompt": f"{n}", "chosen": "1", "rejected": "+"} for n in range(8)]
    data = prepared(home / "pairs", pairs, "trajectories")
    prepared(home / "problems", SUMS, "problems")
    for seed in range(2):
        init = base(home / f"init{seed}", "llama", characters="0123456789+=", seed=seed)
        run("reward_model", home / f"judge{seed}", {"max_steps": 1, "batch_size": 4}, init=init, data=data)
    return home


def test_terms_are_weighed_and_logged_by_name(home: Path, tmp_path: Path) -> None:
    weights = {"verifier": 2.0, "reward_model": 0.5, "format": -1.0, "length": 0.25, "repetition": 0.0}
    settings = BRIEF | {"rewards": weights, "format_pattern": "\\d+", "overlong_tokens": 2}
    parents: dict[str, Any] = {"init": home / "init0", "problems": home / "problems", "reward_model": home / "judge0"}
    metrics = record(run("rl", tmp_path / "rl", settings, **parents)).metrics
    means = {name: metrics[f"rewards/{name}/mean"] for name in weights}
    assert means.keys() == TERMS.keys() - {"process_reward_model"}  # which has a test of its own
    assert metrics["reward"] == pytest.approx(sum(weights[name] * means[name] for name in weights), abs=1e-5)


def test_several_reward_models_are_one_careful_one(home: Path, tmp_path: Path) -> None:
    judges = [open_artifact(home / f"judge{seed}", Kind.REWARD_MODEL) for seed in range(2)]
    together, tokenizer = load_reward_models(judges, False, pessimism=0.5)
    inputs = tokenizer(text=["1+1=2", "1+1=++"], return_tensors="pt", padding=True)
    with torch.no_grad():
        each = torch.stack([load_reward_models([judge], False, 0)[0](**inputs).logits for judge in judges])
        careful = together(**inputs).logits
    assert not torch.allclose(each[0], each[1])
    assert torch.allclose(careful, each.mean(0) - 0.5 * (each[0] - each[1]).abs() / 2, atol=1e-5)
    parents: dict[str, Any] = {"init": home / "init0", "problems": home / "problems"}
    parents["reward_model"] = [home / "judge0", home / "judge1"]
    settings = BRIEF | {"rewards": {"reward_model": 1.0}, "reward_model_pessimism": 1.0}
    assert "rewards/reward_model/mean" in record(run("rl", tmp_path / "rl", settings, **parents)).metrics


def test_normalise_then_sum_is_reachable(home: Path, tmp_path: Path) -> None:
    """GDPO (2601.05242): each term normalised in its group before they are summed."""
    settings = BRIEF | {"rewards": {"format": 1.0, "repetition": 1.0}, "format_pattern": r"\d.*", "learning_rate": 1e-2}
    settings["max_new_tokens"] = 12
    parents = {"init": home / "init0", "problems": home / "problems"}
    gdpo = {"trainer_args": {"multi_objective_aggregation": "normalize_then_sum"}}
    made = [
        record(run("rl", tmp_path / name, settings | more, **parents))
        for name, more in {"sum": {}, "gdpo": gdpo}.items()
    ]
    assert made[0].digest != made[1].digest


@pytest.mark.parametrize(
    ("settings", "judges", "error", "complaint"),
    [
        ({"rewards": {"verifer": 1.0}}, 0, ConfigError, "no term is called 'verifer'; did you mean 'verifier'?"),
        ({"rewards": {}}, 0, ConfigError, "rewards={} leaves nothing to maximise"),
        ({"rewards": {"verifier": 0.0}}, 0, ConfigError, "leaves nothing to maximise"),
        ({"rewards": {"format": 1.0}}, 0, ConfigError, "term 'format', which needs format_pattern"),
        ({"rewards": {"length": 1.0}}, 0, ConfigError, "term 'length', which needs overlong_tokens"),
        ({"format_pattern": "a"}, 0, ConfigError, "format_pattern='a', but rewards has no term 'format'"),
        ({"rewards": {"format": 1.0}, "format_pattern": "("}, 0, ConfigError, "format_pattern='(' is no regular"),
        ({"rewards": {"length": 1.0}, "overlong_tokens": 9}, 0, ConfigError, "overlong_tokens=9 of max_new_tokens=4"),
        ({"rewards": {"reward_model": 1.0}}, 0, ContractError, "which needs a parent 'reward_model'"),
        ({}, 1, ContractError, "a parent 'reward_model', but rewards={'verifier': 1.0} has no term 'reward_model'"),
        ({"rewards": {"reward_model": 1}, "reward_model_pessimism": 1}, 1, ContractError, "is for several reward"),
    ],
)
def test_a_term_goes_with_what_it_needs(
    home: Path, tmp_path: Path, settings: dict[str, Any], judges: int, error: type[PosttrainError], complaint: str
) -> None:
    parents = {"init": [home / "init0"], "problems": [home / "problems"]}
    parents |= {"reward_model": [home / f"judge{n}" for n in range(judges)]} if judges else {}
    refused("rl", parents, BRIEF | settings, tmp_path / "x" / "out", error, complaint)
