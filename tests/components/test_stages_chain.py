"""SFT → RL → student → distillation → evaluation, on real architectures of random weights, through `execute`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import reasoning_gym
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.artifacts.policy import SHARED_FACTS
from posttrain.taxonomy import METHODS
from tests.training.jobs import (
    BRIEF,
    HELD_OUT,
    SUMS,
    Row,
    answered,
    base,
    chat,
    prepared,
    record,
    run,
    same_weights,
    weights,
)

ARCHITECTURES = ["llama", "gemma", "gemma3_text", "gpt2", "qwen2", "qwen3_moe"]
CONVERSATIONAL = ["llama", "gemma3_text"]
# Enough layers that half of them, and one of each kind of attention, make a student of at most half the weights.
DEEP = {"num_hidden_layers": 6}
KINDS_OF_LAYERS = {"gemma3_text": {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2}}
# Input and output embeddings shared, as their published policies have them.
TIED = {"gemma", "gpt2"}
POLICY_FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def deep_policy(out: Path, architecture: str, **kwargs: Any) -> Path:
    depth = {"n_layer": 6} if architecture == "gpt2" else DEEP | KINDS_OF_LAYERS.get(architecture, {})
    return base(out, architecture, tie_word_embeddings=architecture in TIED, **depth, **kwargs)


class Chain:
    """Every stage of the chain, run; each attribute is an artifact."""

    def __init__(
        self, home: Path, init: Path, train: list[Row], demos: list[Row], held_out: list[Row], **settings: Any
    ):
        steps = BRIEF | settings
        online = steps | {"max_new_tokens": 4}
        self.init, self.home = init, home
        self.held_out = prepared(home / "held_out", held_out, "problems")
        self.problems = prepared(home / "problems", train, "problems")
        self.demos = prepared(home / "demos", demos, "trajectories")
        self.sft = run("sft", home / "sft", steps, init=init, data=self.demos)
        self.rl = run("rl", home / "rl", online | {"group_size": 4}, init=self.sft, problems=self.problems)
        self.small = run("student", home / "small", teacher=self.rl)
        sampling = {"samples": 2, "max_new_tokens": 4}
        self.rollouts = run("rollout", home / "rollouts", sampling, policy=self.rl, problems=self.problems)
        sequence = steps | {"method": "sequence_distillation"}
        self.warm = run("distill", home / "warm", sequence, init=self.small, teacher=self.rl, data=self.rollouts)
        self.student = run("distill", home / "student", online, init=self.warm, teacher=self.rl, problems=self.problems)
        self.evaluation = run("evaluate", home / "evaluation", sampling, policy=self.student, problems=self.held_out)

    def check(self) -> None:
        """Everything a user may rely on after the last stage."""
        for artifact in (self.init, self.sft, self.rl, self.small, self.warm, self.student):
            self._check_policy(artifact)
        for parent, child in ((self.init, self.sft), (self.small, self.warm), (self.warm, self.student)):
            assert weights(parent).keys() == weights(child).keys()
            assert not same_weights(parent, child), child
        self._check_records()
        self._check_student()

    def _check_policy(self, artifact: Path) -> None:
        """Whole, unchanged since it was written, loadable, and speaking the first policy's language."""
        made, first = record(artifact), record(self.init)
        assert {file.name for file in artifact.iterdir()} >= POLICY_FILES
        assert {fact: made.facts[fact] for fact in SHARED_FACTS} == {fact: first.facts[fact] for fact in SHARED_FACTS}
        model = AutoModelForCausalLM.from_pretrained(artifact)
        ids = AutoTokenizer.from_pretrained(artifact)("1+1=", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            assert torch.isfinite(model(ids).logits).all()
        assert model.num_parameters() == made.facts["parameters"]

    def _check_records(self) -> None:
        expected = {
            self.sft: ("sft", "off-policy", {"init": self.init, "data": self.demos}),
            self.rl: ("grpo", "on-policy", {"init": self.sft, "problems": self.problems}),
            self.small: ("student", None, {"teacher": self.rl}),
            self.warm: (
                "sequence_distillation",
                "off-policy",
                {"init": self.small, "teacher": self.rl, "data": self.rollouts},
            ),
            self.student: (
                "on_policy_distillation",
                "on-policy",
                {"init": self.warm, "teacher": self.rl, "problems": self.problems},
            ),
            self.evaluation: ("evaluate", None, {"policy": self.student, "problems": self.held_out}),
        }
        for artifact, (method, provenance, parents) in expected.items():
            made = record(artifact)
            assert (made.method, made.trace and made.trace.provenance) == (method, provenance)
            assert made.role == METHODS[method].role
            assert {ref.role: ref.digest for ref in made.parents} == {r: record(p).digest for r, p in parents.items()}
            points = [value for curve in made.curves.values() for point in curve for value in point]
            assert all(map(math.isfinite, [*points, *made.metrics.values()]))
            assert bool(made.curves.get("loss")) == (provenance is not None)
        assert record(self.init).id in record(self.evaluation).family()

    def _check_student(self) -> None:
        large, small = record(self.rl).facts["parameters"], record(self.student).facts["parameters"]
        assert small == record(self.small).facts["parameters"] <= large / 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_plain_text(tmp_path: Path, architecture: str) -> None:
    init = deep_policy(tmp_path / "init", architecture)
    Chain(tmp_path, init, SUMS, answered(SUMS), HELD_OUT).check()


@pytest.mark.parametrize("architecture", CONVERSATIONAL)
def test_conversations(tmp_path: Path, architecture: str) -> None:
    init = deep_policy(tmp_path / "init", architecture, chat_template=True)
    chain = Chain(tmp_path, init, chat(SUMS), chat(answered(SUMS)), chat(HELD_OUT))
    chain.check()
    assert record(chain.student).facts["chat_template"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3_moe"])
def test_lora(tmp_path: Path, architecture: str) -> None:
    init = deep_policy(tmp_path / "init", architecture)
    chain = Chain(tmp_path, init, SUMS, answered(SUMS), HELD_OUT, lora_rank=2)
    chain.check()
    full = {name: (tensor.shape, tensor.dtype) for name, tensor in weights(init).items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in weights(chain.rl).items()} == full
    assert not list(chain.rl.glob("adapter*")), "the adapters are merged, nothing is left of them"


@pytest.mark.parametrize("task", ["gcd", "spell_backward"])
def test_tasks_of_reasoning_gym(tmp_path: Path, task: str) -> None:
    entries = list(reasoning_gym.create_dataset(task, seed=1, size=8))
    rows = [
        {
            "prompt": entry["question"],
            "verifier": "reasoning_gym",
            "reference": {"task": task, "entry": {key: entry[key] for key in ("question", "answer")}},
        }
        for entry in entries
    ]
    init = deep_policy(tmp_path / "init", "qwen2", context=512)
    Chain(tmp_path, init, rows[:6], answered_by(rows[:6]), rows[6:]).check()


def answered_by(rows: list[Row]) -> list[Row]:
    return [{"prompt": row["prompt"], "completion": row["reference"]["entry"]["answer"]} for row in rows]
