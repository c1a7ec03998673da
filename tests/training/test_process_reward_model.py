"""Process reward models: they learn where solutions go wrong, say how well, and score completions for RL."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from posttrain.components.catalogue import load_stage
from posttrain.components.process_reward_model.judged import Judged
from posttrain.components.process_reward_model.stage import divided
from transformers import AutoModelForTokenClassification

from posttrain.artifacts.artifact import open_artifact
from posttrain.artifacts.problems import Problem
from posttrain.errors import ConfigError, ContractError
from posttrain.generation.process import StepScorer
from posttrain.generation.steps import Steps
from posttrain.generation.tokenizer import load_tokenizer
from posttrain.stage import execute
from posttrain.taxonomy import Kind
from posttrain.training.process import process_reward
from tests.made import refused
from tests.training.jobs import base, prepared, record, run, weights

LEARN: dict[str, Any] = {
    "max_steps": 40,
    "batch_size": 16,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "held_out": 0.25,
    "seed": 1,
}

Row = dict[str, Any]


def solutions(count: int, seed: int = 0, conversational: bool = False) -> list[Row]:
    """Two solutions a problem. A digit is a right step, a letter a wrong one, and all after it."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        for _ in range(2):
            steps = [chance.choice("0123456789abcde") for _ in range(3)]
            labels = [float(all(step.isdigit() for step in steps[: depth + 1])) for depth in range(3)]
            prompt: Any = f"{number}?"
            prompt = [{"role": "user", "content": prompt}] if conversational else prompt
            rows.append({"prompt": prompt, "completions": steps, "labels": labels, "problem_id": f"p{number}"})
    return rows


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, labelled steps, and a model of them."""
    home = tmp_path_factory.mktemp("process")
    base(home / "init", "llama", chat_template=True, characters="0123456789abcde?:\n usrit")
    prepared(home / "data", solutions(60), "trajectories")
    run("process_reward_model", home / "judge", LEARN, init=home / "init", data=home / "data")
    return home


def judge(home: Path, name: str = "judge") -> Any:
    return open_artifact(home / name, Kind.PROCESS_REWARD_MODEL)


def test_it_tells_steps_of_unseen_problems_apart(home: Path) -> None:
    made = record(home / "judge")
    assert made.metrics["auc"] > 0.9 > made.metrics["auc_by_depth_alone"]
    assert made.metrics["auc_low"] < made.metrics["auc"] <= made.metrics["auc_high"]
    assert made.metrics["accuracy"] > made.metrics["base_rate"]
    counts = {"solutions": 120, "truncated": 0, "steps": 360, "steps_lost": 0, "learned_from": 90}
    assert made.counts == counts | {"held_out": 30, "held_out_problems": 15, "held_out_steps": 90}
    assert made.trace is not None
    assert (made.trace.provenance, made.trace.rows, made.interface) == ("off-policy", 90, "process")
    assert made.curves["loss"][-1][1] < 0.3 < made.curves["loss"][0][1]


def test_its_artifact_is_a_token_classifier_that_reads_as_its_policy_does(home: Path) -> None:
    made, init = record(home / "judge"), record(home / "init")
    assert (made.kind, made.facts["architecture"]) == ("process_reward_model", "LlamaForTokenClassification")
    assert all(made.facts[fact] == init.facts[fact] for fact in ("tokenizer", "chat_template", "eos", "context"))
    assert weights(home / "judge")["score.weight"].shape == (1, 32)
    assert made.facts["separator"] == "\n"


def test_scores_are_the_heads_at_the_end_of_each_step(home: Path) -> None:
    texts = [("1?", "2\n33\na"), ("7?", "4"), ("7?", "")]
    scores = StepScorer(judge(home))(texts)
    model = AutoModelForTokenClassification.from_pretrained(home / "judge").eval()
    tokenizer = load_tokenizer(home / "judge")
    for (prompt, text), found in zip(texts, scores, strict=True):
        with torch.no_grad():
            right_T = model(**tokenizer(prompt + text, return_tensors="pt")).logits[0, :, 0].sigmoid()
        ends = [len(prompt) + place for place, letter in enumerate(text, 1) if letter == "\n" or place == len(text)]
        assert found == pytest.approx([float(right_T[end - 1]) for end in ends], abs=1e-5)


def test_few_held_out_problems_tell_nothing(home: Path, tmp_path: Path) -> None:
    """One problem that is resampled is always itself: its AUC would pass for certain."""
    step_N = np.arange(6)

    def auc(problems: int) -> tuple[float, float, float]:
        found = Judged(step_N % problems, step_N, (step_N < 3).astype(float), step_N < 3).auc(seed=0)
        return found.estimate, found.low, found.high

    assert auc(1) == auc(5) == (1.0, 0.0, 1.0)
    assert auc(6)[0] == auc(6)[2] == 1.0 and 0.5 < auc(6)[1] < 0.9
    made = record(
        run(
            "process_reward_model",
            tmp_path / "judge",
            LEARN | {"held_out": 0.05},
            init=home / "init",
            data=home / "data",
        )
    )
    assert made.counts["held_out_problems"] == 3 and made.metrics["auc_low"] == 0.0


def test_what_is_held_out_is_no_prompt_that_it_learns_from_under_another_id() -> None:
    rows = [{"prompt": f"{number % 5}?", "problem_id": f"p{number}"} for number in range(20)]
    steps = Steps([1, 2], 1, [2], ["a"])
    learned, judged = divided([(row, steps) for row in rows], 0.25, seed=0)
    assert {row["prompt"] for row, _ in learned} & {row["prompt"] for row, _ in judged} == set()
    assert (len(learned), len(judged)) == (16, 4)


def test_labels_of_chance_are_called_so(home: Path, tmp_path: Path) -> None:
    chance = random.Random(3)
    rows = [row | {"labels": [float(chance.random() < 0.5) for _ in range(3)]} for row in solutions(60)]
    parents = {"init": [home / "init"], "data": [prepared(tmp_path / "noise", rows, "trajectories")]}
    made = execute(load_stage("process_reward_model"), parents, LEARN, tmp_path / "judge", tmp_path / "page.html")
    assert made.metrics["auc_low"] <= 0.5
    assert "Cannot be told from chance" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_soft_labels_are_learned_as_shares_and_hard_ones_as_certainty(home: Path, tmp_path: Path) -> None:
    rows = [row | {"labels": [0.3 if label else 0.0 for label in row["labels"]]} for row in solutions(60)]
    data = prepared(tmp_path / "shares", rows, "trajectories")
    for labels, expected in (("soft", 0.3), ("hard", 1.0)):
        run("process_reward_model", tmp_path / labels, LEARN | {"labels": labels}, init=home / "init", data=data)
        [[first, *_]] = StepScorer(judge(tmp_path, labels))([("99?", "1\n2\n3")])
        assert first == pytest.approx(expected, abs=0.15)


def test_messages_and_adapters(home: Path, tmp_path: Path) -> None:
    chats = prepared(tmp_path / "chats", solutions(60, conversational=True), "trajectories")
    made = run("process_reward_model", tmp_path / "judge", LEARN | {"lora_rank": 4}, init=home / "init", data=chats)
    assert record(made).metrics["auc"] > 0.8
    assert set(weights(made)) == set(weights(home / "judge")), "adapters and head are merged"


def test_the_same_seed_gives_the_same_bytes(home: Path, tmp_path: Path) -> None:
    brief = LEARN | {"max_steps": 2}
    first, again, other = (
        run("process_reward_model", tmp_path / str(n), brief | {"seed": n // 2}, init=home / "init", data=home / "data")
        for n in range(3)
    )
    assert record(first).digest == record(again).digest != record(other).digest


def test_what_is_too_long_is_counted(home: Path, tmp_path: Path) -> None:
    rows = [*solutions(10), {"prompt": "1?", "completions": ["1", "2" * 200], "labels": [1, 1], "problem_id": "long"}]
    data = prepared(tmp_path / "long", rows, "trajectories")
    parents = {"init": [home / "init"], "data": [data]}
    complaint = "data row 21 has 204 tokens, over max_length=128 (1 of 21 rows, allowed 1.0%)"
    out = tmp_path / "x" / "out"
    refused("process_reward_model", parents, LEARN | {"max_truncated": 0.01}, out, ContractError, complaint)
    made = record(
        run("process_reward_model", tmp_path / "judge", LEARN | {"max_steps": 1}, init=home / "init", data=data)
    )
    assert (made.counts["truncated"], made.counts["steps_lost"], made.counts["steps"]) == (1, 1, 61)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"prompt": "1", "completion": "2"}], "shape 'prompt-completion'"),
        ([{"prompt": "1", "completions": ["1", "2"], "labels": [1.0]}], "2 steps and 1 labels"),
        ([{"prompt": "1", "completions": ["1"], "labels": [2.0]}], "a label outside [0, 1]"),
        ([{"prompt": "1", "completions": ["1"], "labels": [1.0]}], "one problem"),
    ],
)
def test_what_is_no_labelled_solution_is_refused(home: Path, tmp_path: Path, rows: list[Row], complaint: str) -> None:
    parents = {"init": [home / "init"], "data": [prepared(tmp_path / "data", rows, "trajectories")]}
    refused("process_reward_model", parents, LEARN, tmp_path / "x" / "out", ContractError, complaint)


def test_messages_need_a_template_and_arguments_must_be_known(home: Path, tmp_path: Path) -> None:
    plain, out = base(tmp_path / "plain", "llama"), tmp_path / "x" / "out"
    chats = prepared(tmp_path / "chats", solutions(3, conversational=True), "trajectories")
    parents = {"init": [plain], "data": [chats]}
    refused("process_reward_model", parents, LEARN, out, ContractError, "no chat template")
    wrong = LEARN | {"trainer_args": {"wieght_decay": 0.1}}
    refused("process_reward_model", parents, wrong, out, ConfigError, "did you mean 'weight_decay'")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"lora_rank": 4, "quantize": "4bit"}, "quantize=4bit cannot be merged"),
        ({"lora_rank": 4, "strategy": "fsdp", "processes": 2}, "lora_rank=4 with strategy=fsdp cannot be merged"),
    ],
)
def test_adapters_that_could_not_be_merged_are_refused(
    home: Path, tmp_path: Path, settings: dict[str, Any], complaint: str
) -> None:
    parents = {"init": [home / "init"], "data": [home / "data"]}
    refused("process_reward_model", parents, LEARN | settings, tmp_path / "x" / "out", ConfigError, complaint)


def test_completions_are_scored_for_an_online_trainer(home: Path) -> None:
    problems = [Problem(id="x", prompt=f"{n}?", verifier="exact", reference="1") for n in (1, 2)]
    counts: Counter[str] = Counter()
    scored = process_reward(judge(home), problems, counts)
    right, wrong, none = scored(completions=["1\n2\n3", "1\na\n3", ""], problem=[0, 1, 1], prompts=["", "", ""])
    assert right is not None
    assert wrong is not None
    assert right > 0.5 > wrong
    assert (none, counts) == (None, {"without_steps": 1})
    [first, middle, last] = StepScorer(judge(home))([("2?", "1\na\n3")])[0]
    assert wrong == pytest.approx(min(first, middle, last))
    chat = [[{"role": "assistant", "content": "1\na\n3"}]]
    assert process_reward(judge(home), problems, counts)(completions=chat, problem=[1]) == pytest.approx([wrong])


def test_rl_takes_it_as_a_term_and_raises_it(home: Path, tmp_path: Path) -> None:
    """The problems' verifier would have a letter, and is only logged; the process reward model prefers digits."""
    rows = [{"prompt": f"{n}?", "verifier": "exact", "reference": "a"} for n in range(8)]
    parents = {"init": home / "init", "problems": prepared(tmp_path / "problems", rows, "problems")}
    settings = {"max_steps": 12, "batch_size": 32, "group_size": 16, "learning_rate": 3e-3, "max_new_tokens": 3}
    settings |= {"logging_steps": 1, "rewards": {"process_reward_model": 1.0, "verifier": 0.0}}
    made = record(run("rl", tmp_path / "rl", settings, **parents, process_reward_model=home / "judge"))
    rewards = [value for _, value in made.curves["rewards/process_reward_model/mean"]]
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 0.3
    assert "rewards/verifier/mean" in made.curves
    given = {role: [path] for role, path in parents.items()}
    refused("rl", given, settings, tmp_path / "x" / "out", ContractError, "needs a parent 'process_reward_model'")
