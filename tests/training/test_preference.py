"""Preference optimisation: what was preferred becomes likelier, whatever the method; rows, reference and counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from posttrain.components.preference.stage import PreferenceMethod

from posttrain.errors import ConfigError, ContractError
from posttrain.generation.transformers import load_policy
from posttrain.taxonomy import METHODS
from posttrain.training.trl_classes import trl_class
from tests.made import refused
from tests.training.jobs import BRIEF, SUMS, base, chat, prepared, record, run, same_weights, weights

Row = dict[str, Any]

LEARN: dict[str, Any] = {"max_steps": 12, "batch_size": 16, "learning_rate": 3e-3, "logging_steps": 1}
CHARACTERS = "0123456789+="

PAIRS: list[Row] = [
    {"prompt": row["prompt"], "chosen": str(row["reference"]), "rejected": str(9 - int(row["reference"]))}
    for row in SUMS
]
LABELLED: list[Row] = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for row in PAIRS
    for side in ("chosen", "rejected")
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, another of its family, pairs and labelled answers."""
    home = tmp_path_factory.mktemp("preferences")
    base(home / "init", "llama", chat_template=True, characters=CHARACTERS)
    base(home / "other", "llama", chat_template=True, characters=CHARACTERS, seed=1)
    prepared(home / "pairs", PAIRS, "trajectories")
    prepared(home / "labelled", LABELLED, "trajectories")
    return home


def margin(policy: Path) -> float:
    """Mean of log π(chosen) − log π(rejected) over the pairs, nats, from plain forwards."""
    model, tokenizer = load_policy(policy)
    with torch.no_grad():
        return sum(
            logprob(model, tokenizer, row["prompt"], row["chosen"])
            - logprob(model, tokenizer, row["prompt"], row["rejected"])
            for row in PAIRS
        ) / len(PAIRS)


def logprob(model: Any, tokenizer: Any, prompt: str, completion: str) -> float:
    start = len(tokenizer(prompt)["input_ids"])
    ids = tokenizer(prompt + completion + tokenizer.eos_token, return_tensors="pt")["input_ids"]
    logprobs_TV = model(ids).logits[0, :-1].log_softmax(-1)
    return float(logprobs_TV.gather(-1, ids[0, 1:, None])[start - 1 :].sum())


def test_the_catalogue_and_the_stage_agree() -> None:
    assert {name for name, method in METHODS.items() if method.stage == "preference"} == set(get_args(PreferenceMethod))


@pytest.mark.parametrize("method", ["dpo", "mpo", "kto", "orpo"])
def test_a_method_is_recorded_with_curves_that_rise(home: Path, tmp_path: Path, method: str) -> None:
    """What each method does to unseen pairs is in tests/effects/of_preference.py."""
    data = home / ("labelled" if method == "kto" else "pairs")
    made = record(run("preference", tmp_path / method, LEARN | {"method": method}, init=home / "init", data=data))
    assert (made.method, made.interface, made.role) == (method, "preferences", "reshaping")
    assert all(math.isfinite(value) for curve in made.curves.values() for _, value in curve)
    assert made.curves["rewards/margins"][-1][1] > made.curves["rewards/margins"][0][1]


def test_a_bfloat16_policy_is_trained_in_float32_by_every_trainer(home: Path, tmp_path: Path) -> None:
    """The experimental trainers would lose updates that are smaller than bfloat16 tells apart."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(home / "init", dtype="bfloat16").save_pretrained(folder)
    for file in home.glob("init/*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    init = run("base", tmp_path / "init", {"uri": str(folder)})
    for method in ("dpo", "simpo", "orpo"):
        trained = run("preference", tmp_path / method, BRIEF | {"method": method}, init=init, data=home / "pairs")
        assert {tensor.dtype for tensor in weights(trained).values()} == {torch.float32}


def test_a_reference_is_what_the_policy_is_held_to(home: Path, tmp_path: Path) -> None:
    parents = {"init": home / "init", "data": home / "pairs"}
    own = run("preference", tmp_path / "own", BRIEF, **parents)
    same = run("preference", tmp_path / "same", BRIEF, **parents, reference=home / "init")
    other = run("preference", tmp_path / "other", BRIEF, **parents, reference=home / "other")
    assert same_weights(own, same)
    assert not same_weights(own, other)
    first = [record(trained).curves["rewards/margins"][0][1] for trained in (own, other)]
    assert first[0] == 0, "before the first step the policy is its reference"
    assert abs(first[1]) > 0.01
    assert [parent.role for parent in record(other).parents] == ["init", "data", "reference"]


def test_adapters_are_held_to_the_policy_without_them(home: Path, tmp_path: Path) -> None:
    settings = LEARN | {"lora_rank": 4, "learning_rate": 1e-2}
    trained = run("preference", tmp_path / "lora", settings, init=home / "init", data=home / "pairs")
    assert record(trained).curves["rewards/margins"][0][1] == 0
    assert margin(trained) > margin(home / "init") + 1


def test_messages(home: Path, tmp_path: Path) -> None:
    rows = [row | chat([{"prompt": row["prompt"]}])[0] for row in PAIRS]
    rows = [row | {s: [{"role": "assistant", "content": row[s]}] for s in ("chosen", "rejected")} for row in rows]
    data = prepared(tmp_path / "chats", rows, "trajectories")
    for method in ("dpo", "kto", "simpo"):
        trained = run("preference", tmp_path / method, LEARN | {"method": method}, init=home / "init", data=data)
        curve = record(trained).curves["rewards/margins"]
        assert curve[-1][1] > curve[0][1]
    plain = base(tmp_path / "plain", "llama", characters=CHARACTERS)
    refused(
        "preference", {"init": [plain], "data": [data]}, {}, tmp_path / "x" / "o", ContractError, "no chat template"
    )


def test_both_sides_of_a_pair_have_been_sampled_by_someone(home: Path, tmp_path: Path) -> None:
    own, other = (record(home / name).digest for name in ("init", "other"))
    rows = [*(row | {"sampler": own} for row in PAIRS[:2])]
    rows += [row | {"chosen_sampler": other, "rejected_sampler": own} for row in PAIRS[2:4]]
    rows += PAIRS[4:6]
    data = prepared(tmp_path / "data", rows, "trajectories")
    found = record(run("preference", tmp_path / "dpo", BRIEF, init=home / "init", data=data)).trace
    assert found is not None
    assert (found.provenance, found.rows, found.self_generated_fraction) == ("off-policy", 12, 0.5)
    assert found.samplers == {own: 6, other: 2, "": 4}


def test_rows_that_are_too_long_are_counted(home: Path, tmp_path: Path) -> None:
    rows = [*PAIRS, PAIRS[0] | {"chosen": "1" * 40}, PAIRS[0] | {"prompt": "1" * 30}]
    data = prepared(tmp_path / "data", rows, "trajectories")
    settings = BRIEF | {"max_length": 24, "max_truncated": 0.2}
    for method in ("dpo", "simpo"):
        trained = run("preference", tmp_path / method, settings | {"method": method}, init=home / "init", data=data)
        assert record(trained).counts == {"rows": 18, "truncated": 2, "dropped": 1}
        assert record(trained).trace.rows == 2 * 17  # type: ignore[union-attr]
    parents, out = {"init": [home / "init"], "data": [data]}, tmp_path / "x" / "out"
    complaint = "data row 17 has 45 tokens, over max_length=24 (2 of 18 rows, allowed 5.0%)"
    refused("preference", parents, BRIEF | {"max_length": 24}, out, ContractError, complaint)
    short = BRIEF | {"max_length": 2, "max_truncated": 1.0}
    refused("preference", parents, short, out, ContractError, "every prompt of data has max_length=2 tokens or more")


def test_kto_takes_pairs_apart(home: Path, tmp_path: Path) -> None:
    settings = BRIEF | {"method": "kto"}
    made = [
        run("preference", tmp_path / name, settings, init=home / "init", data=home / name)
        for name in ("pairs", "labelled")
    ]
    assert same_weights(*made)
    assert [record(one).counts["desirable"] for one in made] == [16, 16]
    assert [record(one).counts["rows"] for one in made] == [16, 32]


@pytest.mark.parametrize(
    ("method", "rows", "complaint"),
    [
        ("dpo", LABELLED, "shape 'unpaired'; method=dpo learns from preference (prompt, chosen, rejected) rows"),
        ("kto", [{"text": "1"}], "learns from preference (prompt, chosen, rejected) or unpaired"),
        ("kto", LABELLED[::2], "every label of data is True, so nothing is preferred"),
        ("kto", [row | {"label": str(row["label"])} for row in LABELLED], "data row 1 has label='True'"),
    ],
)
def test_rows_that_a_method_cannot_learn_from(
    home: Path, tmp_path: Path, method: str, rows: list[Row], complaint: str
) -> None:
    data = prepared(tmp_path / "rows", rows, "trajectories")
    parents = {"init": [home / "init"], "data": [data]}
    refused("preference", parents, {"method": method}, tmp_path / "x" / "out", ContractError, complaint)


def test_a_reference_must_read_as_the_policy_does_and_be_wanted(home: Path, tmp_path: Path) -> None:
    foreign = base(tmp_path / "foreign", "llama", characters=CHARACTERS[::-1])
    parents = {"init": [home / "init"], "data": [home / "pairs"], "reference": [foreign]}
    out = tmp_path / "x" / "out"
    refused("preference", parents, {}, out, ContractError, "tokenizer differs between init", "reference")
    parents["reference"] = [home / "other"]
    refused("preference", parents, {"method": "simpo"}, out, ContractError, "method=simpo has no reference")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"method": "kto", "batch_size": 1}, "batch_size=1 with method=kto"),
        ({"trainer_args": {"bta": 1}}, "DPOConfig has no 'bta'; did you mean 'beta'?"),
        ({"trainer_args": {"beta": 1}}, "the stage has a setting for it (beta)"),
        (
            {"method": "simpo", "trainer_args": {"desirable_weight": 1}},
            "desirable_weight does nothing with method=simpo",
        ),
        (
            {"trainer_args": {"label_smoothing": 0.1}},
            "label_smoothing does nothing with method=dpo; it is for robust_dpo",
        ),
        ({"method": "cpo", "trainer_args": {"simpo_gamma": 1.0}}, "simpo_gamma does nothing with method=cpo"),
        ({"trainer_args": {"loss_type": ["ipo"]}}, "loss_type=['ipo'] is method=ipo; choose it by that name"),
        ({"trainer_args": {"loss_type": "hinge"}}, "loss_type=hinge is method=slic"),
    ],
)
def test_settings_that_do_not_go_together(home: Path, tmp_path: Path, settings: Row, complaint: str) -> None:
    parents = {"init": [home / "init"], "data": [home / "pairs"]}
    refused("preference", parents, settings, tmp_path / "x" / "out", ConfigError, complaint)


def test_an_experimental_class_that_trl_took_away_is_named() -> None:
    with pytest.raises(ConfigError, match=r"TRL 1\.16\.\d has no trl\.experimental\.prm\.PRMTrainer"):
        trl_class("experimental.prm.PRMTrainer")
