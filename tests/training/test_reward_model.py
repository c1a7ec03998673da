"""Reward models: they learn which answer is preferred, and RL maximises what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from posttrain.artifacts.artifact import open_artifact
from posttrain.errors import ContractError
from posttrain.generation.decoding import Decoding
from posttrain.generation.tokenizer import load_tokenizer
from posttrain.generation.transformers import load_policy, sample
from posttrain.taxonomy import Kind
from posttrain.training.reward import load_reward_model
from tests.made import refused
from tests.training.jobs import base, prepared, record, run, weights

LEARN: dict[str, Any] = {
    "max_steps": 30,
    "batch_size": 16,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "held_out": 0.0,
}
RL: dict[str, Any] = {"batch_size": 32, "group_size": 16, "max_new_tokens": 1, "logging_steps": 1}


def pairs(numbers: range) -> list[dict[str, str]]:
    """A digit is preferred to a letter, whatever the prompt."""
    return [{"prompt": f"{n}?", "chosen": str(n % 10), "rejected": "abcdefghij"[n % 10]} for n in numbers]


def messages(row: dict[str, str]) -> dict[str, Any]:
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return {key: [{"role": roles[key], "content": text}] for key, text in row.items()}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, and a reward model made from it that prefers digits."""
    home = tmp_path_factory.mktemp("rewards")
    init = base(home / "init", "llama", chat_template=True, characters="0123456789abcdefghij?: ")
    data = prepared(home / "data", pairs(range(40)), "trajectories")
    run("reward_model", home / "judge", LEARN, init=init, data=data)
    return home


def greedy(policy: Path, prompts: list[str]) -> list[str]:
    decoding = Decoding(samples=1, max_new_tokens=4, temperature=0)
    return [completions[0].text for completions in sample(*load_policy(policy), prompts, decoding)]


def ranked(judge: Path, rows: list[dict[str, str]]) -> list[bool]:
    """Whether each chosen answer scores higher, by Transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(judge).eval()
    tokenizer = load_tokenizer(judge)
    score = lambda text: model(**tokenizer(text, return_tensors="pt")).logits  # noqa: E731
    assert model.config.num_labels == 1
    with torch.no_grad():
        return [
            bool(score(f"{row['prompt']}{row['chosen']}<eos>") > score(f"{row['prompt']}{row['rejected']}<eos>"))
            for row in rows
        ]


def test_it_learns_which_answer_is_preferred(home: Path, tmp_path: Path) -> None:
    still = LEARN | {"max_steps": 1, "learning_rate": 1e-12}
    untrained = run("reward_model", tmp_path / "untrained", still, init=home / "init", data=home / "data")
    before, after = record(untrained), record(home / "judge")
    assert before.metrics["accuracy"] < 0.9
    assert after.metrics["accuracy"] == 1.0
    assert after.counts == {"pairs": 40, "dropped": 0, "unseen": 0, "unseen_dropped": 0}
    assert after.curves["loss"][-1][1] < 0.1 < after.curves["loss"][0][1]
    assert before.metrics["accuracy"] == sum(ranked(untrained, pairs(range(40)))) / 40
    assert sum(ranked(home / "judge", pairs(range(50, 80)))) >= 27, "prompts that it never saw"


def test_its_artifact_is_a_classifier_that_reads_as_its_policy_does(home: Path) -> None:
    made, init = record(home / "judge"), record(home / "init")
    assert (made.kind, made.facts["architecture"]) == ("reward_model", "LlamaForSequenceClassification")
    assert all(made.facts[fact] == init.facts[fact] for fact in ("tokenizer", "chat_template", "eos", "context"))
    assert weights(home / "judge")["score.weight"].shape == (1, 32)
    assert made.trace is not None
    assert (made.trace.provenance, made.interface) == ("off-policy", "preferences")


def test_centring_brings_the_mean_score_to_zero(home: Path, tmp_path: Path) -> None:
    centred = run("reward_model", tmp_path / "c", LEARN | {"center": 1.0}, init=home / "init", data=home / "data")
    mean, free = (abs(record(made).metrics["mean_reward"]) for made in (centred, home / "judge"))
    assert mean < 0.1 < free


def test_messages_and_adapters(home: Path, tmp_path: Path) -> None:
    chats = prepared(tmp_path / "chats", [messages(row) for row in pairs(range(40))], "trajectories")
    judge = run("reward_model", tmp_path / "judge", LEARN | {"lora_rank": 4}, init=home / "init", data=chats)
    assert record(judge).metrics["accuracy"] == 1.0
    assert set(weights(judge)) == set(weights(home / "judge")), "adapters and head are merged"


def test_pairs_that_are_too_long_are_counted(home: Path, tmp_path: Path) -> None:
    rows = [*pairs(range(19)), {"prompt": "1" * 200, "chosen": "1", "rejected": "a"}]
    data = prepared(tmp_path / "long", rows, "trajectories")
    brief = LEARN | {"max_steps": 1}
    judge = run("reward_model", tmp_path / "judge", brief, init=home / "init", data=data)
    assert record(judge).counts["dropped"] == 1
    complaint = "data row 20 has 202 tokens, over max_length=128 (1 of 20 rows, allowed 4.0%)"
    parents = {"init": [home / "init"], "data": [data]}
    refused("reward_model", parents, brief | {"max_dropped": 0.04}, tmp_path / "x" / "out", ContractError, complaint)


def test_what_is_no_pair_is_refused(home: Path, tmp_path: Path) -> None:
    demos = prepared(tmp_path / "demos", [{"prompt": "1", "completion": "2"}], "trajectories")
    chats = prepared(tmp_path / "chats", [messages(row) for row in pairs(range(4))], "trajectories")
    plain = base(tmp_path / "plain", "llama")
    out = tmp_path / "x" / "out"
    refused("reward_model", {"init": [plain], "data": [demos]}, {}, out, ContractError, "shape 'prompt-completion'")
    refused("reward_model", {"init": [plain], "data": [chats]}, {}, out, ContractError, "no chat template")


def scored(numbers: range) -> list[dict[str, Any]]:
    """Two answers to each prompt, the digit right."""
    return [
        {"prompt": pair["prompt"], "completion": pair[side], "reward": float(side == "chosen")}
        for pair in pairs(numbers)
        for side in ("chosen", "rejected")
    ]


def test_a_share_of_the_problems_is_kept_back_to_judge_by(home: Path, tmp_path: Path) -> None:
    parents = {"init": home / "init", "data": home / "data"}
    made = record(run("reward_model", tmp_path / "judge", LEARN | {"held_out": 0.25}, **parents))
    assert (made.counts["pairs"], made.counts["unseen"]) == (30, 20)
    assert made.metrics["unseen/auc"] >= 0.9
    assert made.metrics["unseen/auc_low"] < made.metrics["unseen/auc"] or made.metrics["unseen/auc"] == 1


def test_verified_answers_and_members_of_an_ensemble_judge_it(home: Path, tmp_path: Path) -> None:
    """Problems that it was trained on are left out; the mean of several is judged as each is."""
    verified = prepared(tmp_path / "verified", scored(range(36, 60)), "trajectories")
    parents = {"init": home / "init", "data": home / "data", "verified": verified}
    alone = record(run("reward_model", tmp_path / "alone", LEARN, **parents))
    assert alone.counts["unseen"] == 2 * 20
    assert alone.metrics["unseen/accuracy"] == sum(ranked(tmp_path / "alone", pairs(range(40, 60)))) / 20
    second = record(run("reward_model", tmp_path / "second", LEARN | {"seed": 1}, **parents, members=home / "judge"))
    itself = record(run("reward_model", tmp_path / "itself", LEARN, **parents, members=tmp_path / "alone"))
    assert second.metrics["members/disagreement"] > 0.01
    assert itself.metrics["members/disagreement"] == pytest.approx(0, abs=1e-6)
    assert second.metrics["members/auc"] > 0.8


def test_margins_ask_for_a_distance(home: Path, tmp_path: Path) -> None:
    rows = [row | {"chosen_reward": 1.0, "rejected_reward": 0.0} for row in pairs(range(40))]
    data = prepared(tmp_path / "graded", rows, "trajectories")
    settings = LEARN | {"max_steps": 8}
    plain, wide = (
        record(run("reward_model", tmp_path / str(on), settings | {"margins": on}, init=home / "init", data=data))
        for on in (False, True)
    )
    assert wide.metrics["margin"] > plain.metrics["margin"]
    assert wide.curves["loss"][0][1] > plain.curves["loss"][0][1]


@pytest.mark.parametrize(
    ("settings", "rows", "complaint"),
    [
        ({"margins": True}, scored(range(50, 60)), "a pair has no chosen_reward"),
        ({"held_out": 0.5}, scored(range(50, 60)), "held_out=0.5 with a parent 'verified'"),
        ({}, scored(range(40)), "no problem to judge it by"),
        ({}, scored(range(50, 60))[::2], "no problem to judge it by"),
    ],
)
def test_what_it_cannot_be_judged_by_is_refused(
    home: Path, tmp_path: Path, settings: dict[str, Any], rows: list[dict[str, Any]], complaint: str
) -> None:
    verified = prepared(tmp_path / "verified", rows, "trajectories")
    parents = {"init": [home / "init"], "data": [home / "data"], "verified": [verified]}
    refused("reward_model", parents, settings, tmp_path / "x" / "out", ContractError, complaint)


def first_token(policy: Path, prompts: list[str]) -> list[str]:
    model, tokenizer = load_policy(policy)
    return [
        mine[0].text for mine in sample(model, tokenizer, prompts, Decoding(samples=1, max_new_tokens=1, temperature=0))
    ]


# The verifier wants a letter that the reward model dislikes.
PROBLEMS = [{"prompt": f"{n}?", "verifier": "exact", "reference": "a"} for n in range(8)]


def test_rl_maximises_what_the_reward_model_says(home: Path, tmp_path: Path) -> None:
    problems = prepared(tmp_path / "problems", PROBLEMS, "problems")
    parents = {"init": home / "init", "problems": problems, "reward_model": home / "judge"}
    settings = RL | {"max_steps": 30, "learning_rate": 3e-3, "rewards": {"reward_model": 1.0}}
    trained = run("rl", tmp_path / "rl", settings, **parents)
    prompts = [row["prompt"] for row in PROBLEMS]
    assert not all(answer[:1].isdigit() for answer in first_token(home / "init", prompts))
    assert all(answer[:1].isdigit() for answer in first_token(trained, prompts))
    metrics = record(trained).metrics
    assert "rewards/reward_model/mean" in metrics
    assert not any("verifier" in name for name in metrics)


def test_both_rewards_are_logged_and_weighed(home: Path, tmp_path: Path) -> None:
    rows = [row | {"reference": [*"0123456789abcde"]} for row in PROBLEMS]
    problems = prepared(tmp_path / "problems", rows, "problems")
    parents = {"init": home / "init", "problems": problems, "reward_model": home / "judge"}
    settings = RL | {"max_steps": 1, "rewards": {"verifier": 3.0, "reward_model": 0.5}}
    metrics = record(run("rl", tmp_path / "rl", settings, **parents)).metrics
    verified, scored = (metrics[f"rewards/{name}/mean"] for name in ("verifier", "reward_model"))
    assert 0 < verified < 1
    assert metrics["reward"] == pytest.approx(3 * verified + 0.5 * scored, abs=1e-5)


def test_texts_are_scored_where_the_reward_model_learned_to(home: Path) -> None:
    """RewardTrainer ends plain texts with EOS, GRPOTrainer does not."""
    judge = open_artifact(home / "judge", Kind.REWARD_MODEL)
    model, tokenizer = load_reward_model(judge, conversational=False)
    end = tokenizer.eos_token_id
    ids = tokenizer(text=["1?1", "1?1<eos>"], add_special_tokens=False)["input_ids"]
    assert ids[0] == ids[1]
    assert (ids[0][-1], ids[0].count(end)) == (end, 1)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    _, chats = load_reward_model(judge, conversational=True)
    assert chats(text=["1?1"])["input_ids"][0][-1] != end, "a chat ends as its template says"
