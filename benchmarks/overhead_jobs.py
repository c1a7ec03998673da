"""The jobs of `stage_overhead.py`: each a stage's settings, and the same in the words of a TRL user."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHARACTERS = "0123456789+-*/()= "
ROWS = 2000
NEW_TOKENS = 24
SEED = 1

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One job, twice. `arguments` go to TRL's config, `more` to its trainer; both beside what every job has."""

    stage: str
    data: str
    settings: dict[str, Any]
    trainer: str
    arguments: dict[str, Any]
    batch: int = 8
    trial_steps: int = 40
    parent: str = "data"
    parents: dict[str, str] = field(default_factory=dict)
    more: Callable[[Path], dict[str, Any]] = lambda home: {}
    shuffled: bool = False


def solved(completions: list[str], reference: list[str], **columns: Any) -> list[float]:
    """The reward that the verifier `exact` gives."""
    return [float(text.strip() == answer) for text, answer in zip(completions, reference, strict=True)]


_ROLLOUTS = {"max_new_tokens": NEW_TOKENS}
_COMPLETIONS = {"max_completion_length": NEW_TOKENS}
_GROUPS = {"group_size": 8, **_ROLLOUTS}
_REWARDED = {"batch": 32, "trial_steps": 15, "parent": "problems", "more": lambda home: {"reward_funcs": solved}}
# As the stage has it: TRL's experimental trainers would take the stored precision.
_FLOAT32 = {"model_init_kwargs": {"dtype": "float32", "device_map": None}}

JOBS = {
    "sft": Job("sft", "trajectories", {}, "SFT", {}),
    "dft": Job("sft", "trajectories", {"method": "dft"}, "SFT", {"loss_type": "dft"}),
    "dpo": Job("preference", "pairs", {"method": "dpo"}, "DPO", {}),
    "kto": Job("preference", "labelled", {"method": "kto"}, "KTO", {}, shuffled=True),
    "simpo": Job(
        "preference",
        "pairs",
        {"method": "simpo"},
        "experimental.cpo.CPO",
        _FLOAT32 | {"beta": 2.0, "loss_type": "simpo", "simpo_gamma": 1.0, "cpo_alpha": 0.0, "max_length": 1024},
    ),
    "orpo": Job("preference", "pairs", {"method": "orpo"}, "experimental.orpo.ORPO", _FLOAT32 | {"max_length": 1024}),
    "reward_model": Job("reward_model", "pairs", {"held_out": 0.0}, "Reward", {}),
    "grpo": Job(
        "rl", "problems", _GROUPS, "GRPO", {"loss_type": "grpo", "num_generations": 8} | _COMPLETIONS, **_REWARDED
    ),
    "rloo": Job(
        "rl",
        "problems",
        _GROUPS | {"method": "rloo", "kl": 0.05},
        "RLOO",
        {"num_generations": 8, "beta": 0.05} | _COMPLETIONS,
        **_REWARDED,
    ),
    "distillation": Job(
        "distill",
        "problems",
        _ROLLOUTS,
        "Distillation",
        _COMPLETIONS,
        trial_steps=15,
        parent="problems",
        parents={"teacher": "teacher"},
        more=lambda home: {"teacher_model": str(home / "teacher.model")},
    ),
}


def prepare(home: Path) -> None:
    """Two small Qwen2 (hidden 128, 4 layers), sums to imitate, prefer and solve, as files and as artifacts."""
    from posttrain.components.catalogue import load_stage

    from posttrain.stage import execute

    for name, seed in (("init", 0), ("teacher", 1)):
        _model(home / f"{name}.model", seed)
        execute(load_stage("base"), {}, {"uri": str(home / f"{name}.model")}, home / name)
    for name, rows in _rows().items():
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        kind = "problems" if name == "problems" else "trajectories"
        execute(load_stage("prepare"), {}, {"uri": str(home / f"{name}.jsonl"), "kind": kind}, home / name)


def _model(directory: Path, seed: int) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tests.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer(CHARACTERS, context=256)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=4, max_position_embeddings=256, **sizes, **ends)
    Qwen2ForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _rows() -> dict[str, list[Row]]:
    chance = random.Random(0)
    terms = [[chance.randint(0, 999) for _ in range(8)] for _ in range(ROWS)]
    sums = [("+".join(map(str, row)) + "=", str(sum(row)), str(sum(row) + chance.randint(1, 9))) for row in terms]
    return {
        "trajectories": [{"prompt": prompt, "completion": right} for prompt, right, _ in sums],
        "pairs": [{"prompt": prompt, "chosen": right, "rejected": wrong} for prompt, right, wrong in sums],
        "labelled": [
            {"prompt": prompt, "completion": (right, wrong)[index % 2], "label": index % 2 == 0}
            for index, (prompt, right, wrong) in enumerate(sums)
        ],
        "problems": [{"prompt": prompt, "verifier": "exact", "reference": right} for prompt, right, _ in sums],
    }


def run_stage(job: Job, steps: int, home: Path, out: Path) -> None:
    """The job as a stage, page included, as a pod runs it."""
    from posttrain.components.catalogue import load_stage

    from posttrain.stage import execute

    settings = {"max_steps": steps, "batch_size": job.batch, "learning_rate": 1e-4, "seed": SEED} | job.settings
    parents = {"init": [home / "init"], job.parent: [home / job.data]}
    parents |= {role: [home / name] for role, name in job.parents.items()}
    execute(load_stage(job.stage), parents, settings, out, out.with_suffix(".html"))


def run_bare(job: Job, steps: int, home: Path, out: Path) -> None:
    """The job as a TRL user writes it."""
    from datasets import Dataset

    from posttrain.training.trl_classes import trl_class

    common: dict[str, Any] = {
        "output_dir": str(out.with_suffix(".scratch")),
        "max_steps": steps,
        "per_device_train_batch_size": job.batch,
        "learning_rate": 1e-4,
        "seed": SEED,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    data = Dataset.from_list([json.loads(line) for line in (home / f"{job.data}.jsonl").read_text().splitlines()])
    if job.shuffled:
        data = data.shuffle(seed=SEED)
    config = trl_class(f"{job.trainer}Config")(**common | job.arguments)
    model = str(home / "init.model")
    # TRL's experimental trainers do not load the tokenizer themselves.
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    trainer = trl_class(f"{job.trainer}Trainer")(
        model=model, args=config, train_dataset=data, processing_class=tokenizer, **job.more(home)
    )
    trainer.train()
    trainer.save_model(str(out))
