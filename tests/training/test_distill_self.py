"""Self-distillation: the teacher is the student shown more, and moves after it as it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.errors import ConfigError, ContractError
from posttrain.generation.tokenizer import load_tokenizer
from posttrain.training.privileged import SeesDemonstrations, privileged_prompt
from tests.made import refused
from tests.training.jobs import BRIEF, SUMS, answered, base, chat, prepared, record, run, same_weights, weights

SELF: dict[str, Any] = BRIEF | {"method": "self_distillation", "max_new_tokens": 3, "teacher_update": 0.0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("self")
    base(home / "policy", "llama", chat_template=True)
    prepared(home / "data", answered(SUMS), "trajectories")
    prepared(home / "chat", chat(answered(SUMS)), "trajectories")
    return home


def test_the_students_tokens_are_compared_after_both_prompts(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled: list[dict[str, torch.Tensor]] = []
    sample = SeesDemonstrations._generate_and_score_completions

    def watched(self: Any, inputs: Any) -> Any:
        batch = sample(self, inputs)
        sampled.append({name: value.clone() for name, value in batch.items()})
        return batch

    monkeypatch.setattr(SeesDemonstrations, "_generate_and_score_completions", watched)
    sgd = {"trainer_args": {"optim": "sgd", "max_grad_norm": 0.0}, "schedule": "constant", "learning_rate": 0.5}
    settings = SELF | sgd | {"max_steps": 1, "batch_size": 16, "divergence": "forward"}
    after = weights(run("distill", tmp_path / "out", settings, init=home / "policy", data=home / "data"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(home / "policy"), load_tokenizer(home / "policy")
    shown = {row["prompt"]: f"{row['prompt']}\n\n{row['completion']}" for row in answered(SUMS)}
    (batch,) = sampled
    total, tokens = torch.zeros(()), 0
    for ids, mask, plain in zip(batch["completion_ids"], batch["completion_mask"], batch["prompt_ids"], strict=True):
        completion = ids[mask.bool()].tolist()
        prompt = tokenizer.decode(plain)
        logprobs = []
        for text in (prompt, shown[prompt]):
            before = tokenizer(text)["input_ids"]
            logits = model(torch.tensor([before + completion])).logits[0, len(before) - 1 : -1]
            logprobs.append(logits.log_softmax(-1))
        q, p = logprobs[0], logprobs[1].detach()
        total, tokens = total + (p.exp() * (p - q)).sum(), tokens + len(completion)
    (total / tokens).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(after[name], parameter - 0.5 * parameter.grad, atol=1e-5), name


def test_the_record_says_on_policy_and_no_teacher(home: Path, tmp_path: Path) -> None:
    made = record(run("distill", tmp_path / "out", SELF, init=home / "policy", data=home / "chat"))
    assert made.trace is not None and made.trace.provenance == "on-policy"
    assert [parent.role for parent in made.parents] == ["init", "data"]
    assert made.counts == {"problems": 16, "rollouts": 8}


@pytest.mark.parametrize(("update", "expected"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_the_teacher_moves_to_the_student(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: float, expected: float
) -> None:
    seen: list[float] = []
    follow = SeesDemonstrations._follow

    def watched(self: Any) -> None:
        before, student = (next(model.parameters()).detach().clone() for model in (self._teacher, self._student))
        follow(self)
        moved = next(self._teacher.parameters()).detach() - before
        seen.append(float((moved * (student - before)).sum() / (student - before).square().sum()))

    monkeypatch.setattr(SeesDemonstrations, "_follow", watched)
    settings = SELF | {"teacher_update": update, "accumulation": 2}
    run("distill", tmp_path / "out", settings, init=home / "policy", data=home / "data")
    assert seen == pytest.approx([expected], abs=1e-5), "once an optimizer step, and before the second"


def test_a_teacher_that_stays_and_one_that_moves_teach_otherwise(home: Path, tmp_path: Path) -> None:
    made = {
        update: run("distill", tmp_path / str(update), SELF | {"teacher_update": update, "max_steps": 3},
                    init=home / "policy", data=home / "data")
        for update in (0.0, 0.5)
    }  # fmt: skip
    assert not same_weights(made[0.0], made[0.5])


def test_what_the_teacher_is_shown() -> None:
    template = "Q: {prompt} E: {demonstration} {prompt}?"
    assert privileged_prompt("{x}", "{prompt}", template) == "Q: {x} E: {prompt} {x}?"
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert privileged_prompt(messages, "d", "{demonstration}|{prompt}") == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "d|u"},
    ]


REFUSED: dict[str, tuple[dict[str, Any], list[str], type[Exception], str]] = {
    "no demonstrations": ({}, [], ContractError, "method=self_distillation needs a parent 'data'"),
    "a teacher": (
        {},
        ["data", "teacher"],
        ContractError,
        "has no use for a parent 'teacher'; leave it out, or use on_",
    ),
    "no place": ({"teacher_prompt": "{prompt}"}, ["data"], ConfigError, "teacher_prompt='{prompt}' lacks {demonstra"),
    "adapter": ({"teacher_update": 0.1, "lora_rank": 2}, ["data"], ConfigError, "teacher_update=0.1 needs the student"),
    "routes": ({"routes": {"all": 1}}, ["data"], ConfigError, "routes={'all': 1} with method=self_distillation"),
    "too long": ({"teacher_prompt": "{prompt}{demonstration}" + "." * 125}, ["data"], ContractError, "prompt tokens"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(home: Path, tmp_path: Path, case: str) -> None:
    settings, roles, error, complaint = REFUSED[case]
    parents = {"init": [home / "policy"]} | {r: [home / ("data" if r == "data" else "policy")] for r in roles}
    refused("distill", parents, SELF | settings, tmp_path / "x" / "out", error, complaint)  # type: ignore[arg-type]
