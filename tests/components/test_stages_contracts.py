"""What a stage refuses before it trains, in one line that names the value and the remedy; what KFP does to numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ConfigError, ContractError, PolicyError, PosttrainError
from tests.tiny import CONTEXT
from tests.training.jobs import BRIEF, HELD_OUT, SUMS, answered, base, chat, prepared, record, run, weights

RL: dict[str, Any] = BRIEF | {"group_size": 4, "max_new_tokens": 4}
LONG = "1+" * (CONTEXT // 2 - 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("parents")
    init = base(home / "init", "llama")
    moe = base(home / "moe", "qwen3_moe")
    other = base(home / "other", "llama", characters="0123456789+=")
    problems = prepared(home / "problems", SUMS, "problems")
    chats = prepared(home / "chats", chat(SUMS), "problems")
    held_out = prepared(home / "held_out", HELD_OUT, "problems")
    long = prepared(home / "long", [*SUMS, {"id": "endless", "prompt": LONG, "verifier": "exact", "reference": "1"}],
                    "problems")  # fmt: skip
    demos = prepared(home / "demos", answered(SUMS), "trajectories")
    chat_demos = prepared(home / "chat_demos", chat(answered(SUMS)), "trajectories")
    messages = [{"messages": row["prompt"] + row["completion"]} for row in chat(answered(SUMS))]
    chat_messages = prepared(home / "chat_messages", messages, "trajectories")
    pairs = [{"prompt": row["prompt"], "chosen": row["reference"], "rejected": "no"} for row in SUMS]
    preferences = prepared(home / "preferences", pairs, "trajectories")
    long_demos = prepared(
        home / "long_demos", [*answered(SUMS), {"prompt": LONG, "completion": "1" * 8}], "trajectories"
    )
    return locals()


REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, str], str]] = {
    # Prompts and rows that do not fit.
    "rl: long prompt": (
        "rl",
        RL | {"max_new_tokens": 8},
        {"init": "init", "problems": "long"},
        r"problem 'endless' has 124 prompt tokens",
    ),
    "rollout: long prompt": ("rollout", {"max_new_tokens": 8}, {"policy": "init", "problems": "long"}, "'endless'"),
    "evaluate: long prompt": ("evaluate", {"max_new_tokens": 8}, {"policy": "init", "problems": "long"}, "'endless'"),
    "distill: long prompt": (
        "distill",
        BRIEF | {"max_new_tokens": 8},
        {"init": "init", "teacher": "init", "problems": "long"},
        "lower max_new_tokens",
    ),
    "sft: over max_length": (
        "sft",
        BRIEF | {"max_length": 100},
        {"init": "init", "data": "long_demos"},
        r"row 17 has 133 tokens, over max_length=100 \(1 of 17 rows, allowed 5.0%\)",
    ),
    "sft: over the context": ("sft", BRIEF, {"init": "init", "data": "long_demos"}, "policy's context of 128"),
    # Schedules that cannot be.
    "rl: groups": ("rl", RL | {"group_size": 3}, {"init": "init", "problems": "problems"}, "not a multiple of"),
    "rl: too few problems": (
        "rl",
        RL | {"batch_size": 8, "accumulation": 16},
        {"init": "init", "problems": "problems"},
        "a step takes 32 different problems, but there are 16",
    ),
    "distill: too few problems": (
        "distill",
        BRIEF | {"batch_size": 32, "max_new_tokens": 4},
        {"init": "init", "teacher": "init", "problems": "problems"},
        "a step takes 32 different problems",
    ),
    # Data of the wrong shape, or without what it needs.
    "sft: preferences": ("sft", BRIEF, {"init": "init", "data": "preferences"}, "data has shape 'preference'"),
    "verify: messages": ("verify", {}, {"trajectories": "chat_messages"}, "no single completion to score"),
    "sft: chat without template": ("sft", BRIEF, {"init": "init", "data": "chat_demos"}, "no chat template"),
    "sft: messages without template": ("sft", BRIEF, {"init": "init", "data": "chat_messages"}, "no chat template"),
    "rl: chat without template": ("rl", RL, {"init": "init", "problems": "chats"}, "no chat template"),
    "rollout: chat without template": ("rollout", {}, {"policy": "init", "problems": "chats"}, "no chat template"),
    "evaluate: chat without template": ("evaluate", {}, {"policy": "init", "problems": "chats"}, "no chat template"),
    "distill: chat without template": (
        "distill",
        BRIEF,
        {"init": "init", "teacher": "init", "problems": "chats"},
        "no chat template",
    ),
    "distill: without problems": ("distill", BRIEF, {"init": "init", "teacher": "init"}, "needs a parent 'problems'"),
    "distill: without data": (
        "distill",
        BRIEF | {"method": "sequence_distillation"},
        {"init": "init", "teacher": "init"},
        "needs a parent 'data'",
    ),
    "distill: other tokenizer": (
        "distill",
        BRIEF,
        {"init": "init", "teacher": "other", "problems": "problems"},
        "tokenizer differs between init",
    ),
    # Arguments of the trainer.
    "unknown argument": (
        "sft",
        BRIEF | {"trainer_args": {"weight_decy": 0.1}},
        {"init": "init", "data": "demos"},
        "SFTConfig has no 'weight_decy'; did you mean 'weight_decay'",
    ),
    "a setting's argument": (
        "sft",
        BRIEF | {"trainer_args": {"per_device_train_batch_size": 2}},
        {"init": "init", "data": "demos"},
        r"the stage has a setting for it \(batch_size\)",
    ),
    "the stage's argument": (
        "rl",
        RL | {"trainer_args": {"num_generations": 2}},
        {"init": "init", "problems": "problems"},
        "the stage has a setting for it",
    ),
    "remote code": (
        "sft",
        BRIEF | {"trainer_args": {"trust_remote_code": True}},
        {"init": "init", "data": "demos"},
        "remote code is never run",
    ),
    "another template": (
        "sft",
        BRIEF | {"trainer_args": {"chat_template_path": "mine.jinja"}},
        {"init": "init", "data": "demos"},
        "the policy's own chat template is used",
    ),
    "a schedule TRL refuses": ("sft", BRIEF | {"schedule": "wavy"}, {"init": "init", "data": "demos"}, "SFTConfig: "),
    "unknown setting": ("sft", {"learning_rat": 1}, {"init": "init", "data": "demos"}, "did you mean 'learning_rate'"),
    # Students.
    "student: too deep": ("student", {"layers": 3}, {"teacher": "init"}, "the teacher has 2"),
    "student: too large": ("student", {"layers": 2}, {"teacher": "init"}, "over max_ratio=50%"),
    "student: unknown width": ("student", {"config": {"intermediate": 8}}, {"teacher": "init"}, "config has no"),
    "student: wider": (
        "student",
        {"layers": 1, "config": {"intermediate_size": 128}},
        {"teacher": "init"},
        "does not fit in the teacher's",
    ),
    "student: half a fused tensor": (
        "student",
        {"layers": 1, "config": {"moe_intermediate_size": 16}},
        {"teacher": "moe"},
        "holds several projections side by side",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, made: dict[str, Path], case: str) -> None:
    stage, settings, roles, complaint = REFUSED[case]
    with pytest.raises(PosttrainError, match=complaint) as refusal:
        run(stage, tmp_path / "out", settings, **{role: made[name] for role, name in roles.items()})
    assert isinstance(refusal.value, ConfigError | ContractError)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists(), "nothing is left of a refused stage"


def test_a_share_of_cut_rows_can_be_accepted(tmp_path: Path, made: dict[str, Path]) -> None:
    settings = BRIEF | {"max_length": 100, "max_truncated": 0.1}
    trained = run("sft", tmp_path / "sft", settings, init=made["init"], data=made["long_demos"])
    assert record(trained).counts == {"rows": 17, "truncated": 1, "unfinished": 0}


def test_a_diverged_policy_is_not_written(tmp_path: Path, made: dict[str, Path]) -> None:
    with pytest.raises(PolicyError, match=r"training diverged: .* lower learning_rate"):
        run("sft", tmp_path / "sft", BRIEF | {"learning_rate": 1e38}, init=made["init"], data=made["demos"])
    assert not (tmp_path / "sft").exists()


def test_problems_that_were_trained_on_are_not_measured(tmp_path: Path, made: dict[str, Path]) -> None:
    trained = run("rl", tmp_path / "rl", RL, init=made["init"], problems=made["problems"])
    with pytest.raises(ContractError, match="trained on these very problems"):
        run("evaluate", tmp_path / "out", {"max_new_tokens": 4}, policy=trained, problems=made["problems"])


def test_whole_numbers_arrive_as_floats(tmp_path: Path, made: dict[str, Path]) -> None:
    """KFP's JSON has one kind of number."""
    exact = {"max_steps": 2, "batch_size": 4, "group_size": 4, "max_new_tokens": 4, "seed": 1}
    floats = {name: float(value) for name, value in exact.items()}
    arguments = {"steps_per_generation": 1, "top_k": 5, "epsilon": 0.2}
    as_floats = {"steps_per_generation": 1.0, "top_k": 5.0, "epsilon": 0.2}
    parents = {"init": made["init"], "problems": made["problems"]}
    first = run("rl", tmp_path / "first", exact | {"trainer_args": arguments}, **parents)
    second = run("rl", tmp_path / "second", floats | {"trainer_args": as_floats}, **parents)
    assert record(first).digest == record(second).digest


def test_a_narrow_student_from_floats(tmp_path: Path, made: dict[str, Path]) -> None:
    settings = {"layers": 1.0, "config": {"intermediate_size": 16.0}}
    narrow = run("student", tmp_path / "narrow", settings, teacher=made["init"])
    large, small = weights(made["init"]), weights(narrow)
    name = "model.layers.0.mlp.down_proj.weight"
    assert small[name].equal(large[name][:, :16])
    assert small["lm_head.weight"].equal(large["lm_head.weight"])


def test_a_student_of_some_experts(tmp_path: Path, made: dict[str, Path]) -> None:
    small = run("student", tmp_path / "small", {"layers": 1, "config": {"num_experts": 2}}, teacher=made["moe"])
    assert record(small).metrics["parameter_ratio"] <= 0.5
