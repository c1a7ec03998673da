"""A stage's weights are bit-identical to a bare TRL script's: the same data, seed and config, none of our code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig
from trl import (
    DistillationConfig,
    DistillationTrainer,
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    SFTConfig,
    SFTTrainer,
)

from tests.training.jobs import SUMS, answered, base, chat, prepared, run, same_weights

# What a CPU script sets, in TRL's names, and the same job in the stage's.
BARE: dict[str, Any] = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "seed": 7,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
}
OURS: dict[str, Any] = {"max_steps": 3, "batch_size": 4, "accumulation": 2, "learning_rate": 1e-2, "seed": 7}


@pytest.fixture
def init(tmp_path: Path) -> Path:
    return base(tmp_path / "init", "llama", chat_template=True)


def digits(completions: list[str], **columns: Any) -> list[float]:
    """A reward that differs within nearly every group of random completions."""
    return [float(text[:1].isdigit()) for text in completions]


@pytest.mark.parametrize("conversational", [False, True])
def test_sft(tmp_path: Path, init: Path, conversational: bool) -> None:
    rows = chat(answered(SUMS)) if conversational else answered(SUMS)
    data = prepared(tmp_path / "data", rows, "trajectories")
    ours = run("sft", tmp_path / "ours", OURS, init=init, data=data)
    trainer = SFTTrainer(str(init), SFTConfig(str(tmp_path / "scratch"), **BARE), train_dataset=Dataset.from_list(rows))
    trainer.train()
    trainer.save_model(str(tmp_path / "bare"))
    assert same_weights(ours, tmp_path / "bare")
    assert not same_weights(ours, init)


def test_sft_with_lora(tmp_path: Path, init: Path) -> None:
    rows = answered(SUMS)
    data = prepared(tmp_path / "data", rows, "trajectories")
    ours = run("sft", tmp_path / "ours", OURS | {"lora_rank": 4, "lora_alpha": 8}, init=init, data=data)
    trainer = SFTTrainer(
        str(init),
        SFTConfig(str(tmp_path / "scratch"), **BARE),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.model.merge_and_unload().save_pretrained(tmp_path / "bare")
    assert same_weights(ours, tmp_path / "bare")
    assert not same_weights(ours, init)


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_rl(tmp_path: Path, init: Path, kl: float) -> None:
    accepted = [*"0123456789"]
    rows = [{"prompt": row["prompt"], "verifier": "exact", "reference": accepted} for row in SUMS]
    problems = prepared(tmp_path / "problems", rows, "problems")
    settings = OURS | {"group_size": 4, "max_new_tokens": 1, "kl": kl}
    ours = run("rl", tmp_path / "ours", settings, init=init, problems=problems)
    trainer = GRPOTrainer(
        str(init),
        digits,
        GRPOConfig(
            str(tmp_path / "scratch"), loss_type="grpo", num_generations=4, max_completion_length=1, beta=kl, **BARE
        ),
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in SUMS]),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "bare"))
    assert same_weights(ours, tmp_path / "bare")
    assert not same_weights(ours, init)


def test_on_policy_distillation(tmp_path: Path, init: Path) -> None:
    teacher = base(tmp_path / "teacher", "llama", chat_template=True, seed=1)
    problems = prepared(tmp_path / "problems", SUMS, "problems")
    ours = run(
        "distill", tmp_path / "ours", OURS | {"max_new_tokens": 4}, init=init, teacher=teacher, problems=problems
    )
    trainer = DistillationTrainer(
        str(init),
        str(teacher),
        DistillationConfig(str(tmp_path / "scratch"), beta=1.0, max_completion_length=4, **BARE),
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in SUMS]),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "bare"))
    assert same_weights(ours, tmp_path / "bare")
    assert not same_weights(ours, init)


PREFERRED = [
    {"prompt": row["prompt"], "chosen": row["completion"], "rejected": row["completion"] + "!"}
    for row in answered(SUMS)
]


def test_dpo(tmp_path: Path, init: Path) -> None:
    data = prepared(tmp_path / "data", PREFERRED, "trajectories")
    ours = run("preference", tmp_path / "ours", OURS | {"beta": 0.3}, init=init, data=data)
    rows = Dataset.from_list(PREFERRED)
    trainer = DPOTrainer(str(init), args=DPOConfig(str(tmp_path / "scratch"), beta=0.3, **BARE), train_dataset=rows)
    trainer.train()
    trainer.save_model(str(tmp_path / "bare"))
    assert same_weights(ours, tmp_path / "bare")
    assert not same_weights(ours, init)


def test_kto(tmp_path: Path, init: Path) -> None:
    rows = [row | {"label": number % 3 > 0} for number, row in enumerate(answered(SUMS))]
    data = prepared(tmp_path / "data", rows, "trajectories")
    ours = run("preference", tmp_path / "ours", OURS | {"method": "kto"}, init=init, data=data)
    # TRL takes the rows in order, and the stage shuffles them first.
    shuffled = Dataset.from_list(rows).shuffle(seed=7)
    trainer = KTOTrainer(str(init), args=KTOConfig(str(tmp_path / "scratch"), **BARE), train_dataset=shuffled)
    trainer.train()
    trainer.save_model(str(tmp_path / "bare"))
    assert same_weights(ours, tmp_path / "bare")
    assert not same_weights(ours, init)
