"""Every published variant that the catalogue names trains, and leaves no trace of the trainer in the policy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest
from posttrain.components.rl.variants import VARIANTS, Name

from posttrain.artifacts.digests import digest_file
from posttrain.taxonomy import METHODS
from tests.training.jobs import BRIEF, SUMS, answered, base, chat, prepared, record, run, same_weights

# One token that is a digit or not: a reward that differs within most groups of a random policy.
DIGITS = [{"prompt": row["prompt"], "verifier": "exact", "reference": [*"0123456789"]} for row in SUMS]
RL: dict[str, Any] = BRIEF | {"batch_size": 32, "group_size": 8, "max_new_tokens": 2}


def test_the_catalogue_and_the_stage_agree() -> None:
    assert {name for name, method in METHODS.items() if method.stage == "rl"} == set(get_args(Name))
    assert list(VARIANTS) == list(get_args(Name))


@pytest.mark.parametrize("method", get_args(Name))
def test_rl(tmp_path: Path, method: str) -> None:
    init = base(tmp_path / "init", "llama", characters="0123456789+=")
    problems = prepared(tmp_path / "problems", DIGITS, "problems")
    trained = run("rl", tmp_path / "rl", RL | {"method": method}, init=init, problems=problems)
    made = record(trained)
    assert (made.method, made.parameters["method"]) == (method, method)
    assert made.trace is not None
    assert made.trace.provenance == "on-policy"
    assert all(math.isfinite(value) for curve in made.curves.values() for _, value in curve)
    assert made.metrics["reward_std"] > 0
    assert not same_weights(init, trained)


def test_a_variant_is_a_row_of_trls_arguments(tmp_path: Path) -> None:
    init = base(tmp_path / "init", "llama", characters="0123456789+=")
    problems = prepared(tmp_path / "problems", DIGITS, "problems")
    settings = RL | {"max_steps": 1}
    made = {
        method: run("rl", tmp_path / method, settings | {"method": method}, init=init, problems=problems)
        for method in ("grpo", "dr_grpo")
    }
    override = settings | {"method": "grpo", "trainer_args": {"loss_type": "dr_grpo", "scale_rewards": "none"}}
    by_hand = run("rl", tmp_path / "by_hand", override, init=init, problems=problems)
    assert same_weights(by_hand, made["dr_grpo"])
    assert not same_weights(by_hand, made["grpo"])


def test_supervised(tmp_path: Path) -> None:
    init = base(tmp_path / "init", "llama")
    data = prepared(tmp_path / "data", answered(SUMS), "trajectories")
    sft, dft = (
        run("sft", tmp_path / method, BRIEF | {"method": method}, init=init, data=data) for method in ("sft", "dft")
    )
    assert (record(sft).method, record(dft).method) == ("sft", "dft")
    assert not any(same_weights(*pair) for pair in ((init, sft), (init, dft), (sft, dft)))


@pytest.mark.parametrize("shape", ["text", "messages", "packed"])
def test_supervised_shapes(tmp_path: Path, shape: str) -> None:
    init = base(tmp_path / "init", "llama", chat_template=True)
    rows = answered(SUMS)
    if shape == "text":
        rows = [{"text": row["prompt"] + row["completion"]} for row in rows]
    elif shape == "messages":
        rows = [{"messages": row["prompt"] + row["completion"]} for row in chat(rows)]
    data = prepared(tmp_path / "data", rows, "trajectories")
    trained = run("sft", tmp_path / "sft", BRIEF | {"packing": shape == "packed"}, init=init, data=data)
    assert record(trained).counts["rows"] == len(SUMS)
    assert not same_weights(init, trained)


@pytest.mark.parametrize("divergence", ["forward", "jsd", "reverse"])
def test_distillation(tmp_path: Path, divergence: str) -> None:
    init, teacher = (base(tmp_path / name, "llama", seed=seed) for seed, name in enumerate(("init", "teacher")))
    problems = prepared(tmp_path / "problems", SUMS, "problems")
    settings = BRIEF | {"divergence": divergence, "max_new_tokens": 4}
    trained = run("distill", tmp_path / "taught", settings, init=init, teacher=teacher, problems=problems)
    assert not same_weights(init, trained)
    assert record(trained).metrics["loss"] > 0


@pytest.mark.parametrize("settings", [{"lora_rank": 0}, {"lora_rank": 2}], ids=str)
def test_the_trainer_leaves_nothing_in_the_config(tmp_path: Path, settings: dict[str, Any]) -> None:
    """TRL switches a mixture's router logits on, with which it can no longer be sampled from a cache."""
    init = base(tmp_path / "init", "qwen3_moe")
    data = prepared(tmp_path / "data", answered(SUMS), "trajectories")
    trained = run("sft", tmp_path / "sft", BRIEF | settings, init=init, data=data)
    before, after = (json.loads((policy / "config.json").read_text()) for policy in (init, trained))
    assert before == after
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert digest_file(init / name) == digest_file(trained / name)


def test_a_policy_without_generation_config_stays_without(tmp_path: Path) -> None:
    """Its EOS is the one in its config, and no trainer's opinion replaces it."""
    folder = tmp_path / "model"
    base(tmp_path / "first", "llama").rename(folder)
    for name in ("generation_config.json", "posttrain.json"):
        (folder / name).unlink()
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": 5}
    (folder / "config.json").write_text(json.dumps(config))
    init = run("base", tmp_path / "init", {"uri": str(folder)})
    data = prepared(tmp_path / "data", answered(SUMS), "trajectories")
    trained = run("sft", tmp_path / "sft", BRIEF, init=init, data=data)
    assert record(trained).facts["eos"] == record(init).facts["eos"] == "5"
    assert not (trained / "generation_config.json").exists()
