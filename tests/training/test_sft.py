"""Supervised fine-tuning: which tokens are learned, packed rows, losses that hold a policy near a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trl

from posttrain.errors import ConfigError, ContractError, PosttrainError
from posttrain.generation.tokenizer import load_tokenizer
from tests.made import refused
from tests.training.jobs import BRIEF, SUMS, Row, answered, base, chat, prepared, record, run, same_weights, weights

DEMOS = answered(SUMS)[:4]
MESSAGES: list[Row] = [{"messages": row["prompt"] + row["completion"]} for row in chat(DEMOS)]
MARKED = (
    "{% for m in messages %}{{ m['role'][0] }}:{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}"
    "{{ eos_token }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


def marked(out: Path, template: str = MARKED) -> Path:
    """A tiny policy whose template marks the assistant's turns."""
    model = base(out.with_name("plain"), "llama", chat_template=True)
    folder = out.with_name("with-template")
    model.rename(folder)
    (folder / "posttrain.json").unlink()
    (folder / "chat_template.jinja").write_text(template)
    return run("base", out, {"uri": str(folder)})


@pytest.mark.parametrize(
    ("loss_on", "rows", "learned"),
    [
        ("usual", DEMOS, "0<eos>"),
        ("completion", DEMOS, "0<eos>"),
        ("all", DEMOS, "0+0=0<eos>"),
        ("usual", MESSAGES, "u:0+0=a:0<eos>"),
        ("assistant", MESSAGES, "0<eos>"),
    ],
)
def test_only_the_asked_tokens_are_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss_on: str, rows: list[Row], learned: str
) -> None:
    seen: list[list[int]] = []
    step = trl.SFTTrainer.training_step

    def spy(trainer: Any, model: Any, inputs: Any, *more: Any) -> Any:
        for labels, mask in zip(inputs["labels"], inputs["attention_mask"], strict=True):
            seen.append([int(label) for label in labels[mask.bool()] if label != -100])
        return step(trainer, model, inputs, *more)

    monkeypatch.setattr(trl.SFTTrainer, "training_step", spy)
    init = marked(tmp_path / "init")
    data = prepared(tmp_path / "data", rows, "trajectories")
    run("sft", tmp_path / "sft", BRIEF | {"loss_on": loss_on, "max_steps": 1}, init=init, data=data)
    assert learned in {load_tokenizer(init).decode(labels) for labels in seen}
    assert len(seen) == 4


def test_packed_rows_learn_what_they_would_alone(tmp_path: Path) -> None:
    """Four rows in one sequence give the gradient of four rows apart; a model whose state runs on is refused."""
    data = prepared(tmp_path / "data", DEMOS, "trajectories")
    one = BRIEF | {"max_steps": 1, "trainer_args": {"optim": "sgd"}}
    init = base(tmp_path / "init", "llama")
    apart = run("sft", tmp_path / "apart", one | {"batch_size": 4}, init=init, data=data)
    packed = one | {"packing": True, "max_length": 64, "batch_size": 1}
    together = run("sft", tmp_path / "together", packed, init=init, data=data)
    for curve in ("loss", "grad_norm"):
        ((_, mine),), ((_, other),) = (record(made).curves[curve] for made in (together, apart))
        assert mine == pytest.approx(other, rel=1e-4)
    runs_on = base(tmp_path / "lfm2", "lfm2")
    parents = {"init": [runs_on], "data": [data]}
    refused("sft", parents, packed, tmp_path / "x" / "out", ContractError, "Lfm2ForCausalLM", "packing=false")
    wrapped = run("sft", tmp_path / "wrapped", packed | {"packing_strategy": "wrapped"}, init=runs_on, data=data)
    assert not same_weights(wrapped, runs_on)


def test_a_model_whose_packed_rows_see_each_other_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaModel

    forward = LlamaModel.forward

    def runs_on(model: Any, input_ids: Any, use_cache: bool = False, **ignored: Any) -> Any:
        return forward(model, input_ids=input_ids, use_cache=use_cache)

    monkeypatch.setattr(LlamaModel, "forward", runs_on)
    parents = {
        "init": [base(tmp_path / "init", "llama")],
        "data": [prepared(tmp_path / "data", DEMOS, "trajectories")],
    }
    settings = BRIEF | {"packing": True, "max_length": 64}
    refused("sft", parents, settings, tmp_path / "x" / "out", ContractError, "see each other in LlamaForCausalLM")


@pytest.mark.parametrize("method", ["anchored", "asft", "proximal"])
def test_before_the_first_step_nothing_has_moved(tmp_path: Path, method: str) -> None:
    init, other = (base(tmp_path / name, "llama", seed=seed) for seed, name in enumerate(("init", "other")))
    data = prepared(tmp_path / "data", answered(SUMS), "trajectories")
    settings = BRIEF | {"method": method, "max_steps": 3}
    curves = record(run("sft", tmp_path / "a", settings, init=init, data=data)).curves
    moved = "clipped" if method == "proximal" else "anchor_kl"
    assert curves[moved][0][1] == pytest.approx(0, abs=1e-6)
    assert curves["nll"][0][1] > 1
    lora = record(run("sft", tmp_path / "b", settings | {"lora_rank": 2}, init=init, data=data)).curves
    assert lora["nll"][0][1] == pytest.approx(curves["nll"][0][1], rel=1e-4)
    if method != "proximal":
        assert curves["anchor_kl"][-1][1] > 1e-3
        far = record(run("sft", tmp_path / "c", settings, init=init, data=data, reference=other))
        assert far.curves["anchor_kl"][0][1] > 0.1


def test_a_step_within_the_trust_region_is_plain_sft(tmp_path: Path) -> None:
    """At r = 1 the gradient of r is that of log p, so renewed at every step it is SFT."""
    init = base(tmp_path / "init", "llama")
    data = prepared(tmp_path / "data", answered(SUMS), "trajectories")
    always = BRIEF | {"method": "proximal", "refresh": 1}
    plain, proximal = (
        run("sft", tmp_path / name, settings, init=init, data=data)
        for name, settings in (("plain", BRIEF), ("proximal", always))
    )
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(tensor, weights(proximal)[name], rtol=1e-3, atol=1e-4)


def test_anchors_are_measured_before_and_after(tmp_path: Path) -> None:
    init = base(tmp_path / "init", "llama")
    data = prepared(tmp_path / "data", answered(SUMS), "trajectories")
    digits = [row | {"reference": [*"0123456789"]} for row in SUMS]
    anchors = prepared(tmp_path / "anchors", digits, "problems")
    settings = BRIEF | {"anchor_tokens": 1, "anchor_samples": 8}
    with_anchors = run("sft", tmp_path / "sft", settings, init=init, data=data, anchors=anchors)
    found = record(with_anchors).metrics
    assert found["anchors/attrition_low"] <= found["anchors/attrition"] <= found["anchors/attrition_high"]
    assert found["anchors/pass_at_1_after"] != found["anchors/pass_at_1_before"] > 0
    assert same_weights(with_anchors, run("sft", tmp_path / "without", BRIEF, init=init, data=data))


@pytest.mark.parametrize(
    ("settings", "rows", "error", "complaint"),
    [
        ({"anchor_weight": 0.5}, DEMOS, ConfigError, "anchor_weight is for method=anchored or asft, not sft"),
        ({"method": "anchored", "clip": 0.2}, DEMOS, ConfigError, "clip is for method=proximal, not anchored"),
        ({"packing_strategy": "wrapped"}, DEMOS, ConfigError, "packing_strategy=wrapped without packing"),
        ({"method": "proximal", "strategy": "fsdp"}, DEMOS, ConfigError, "method=proximal with strategy=fsdp"),
        ({"loss_on": "completion"}, MESSAGES, ContractError, "loss_on=completion, but messages rows have none"),
        ({"loss_on": "assistant"}, DEMOS, ContractError, "prompt-completion rows are no conversations"),
        ({"loss_on": "assistant"}, MESSAGES, ContractError, "does not mark the assistant's turns"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, settings: Row, rows: list[Row], error: type[PosttrainError], complaint: str
) -> None:
    init = base(tmp_path / "init", "llama", chat_template=True)
    parents = {"init": [init], "data": [prepared(tmp_path / "data", rows, "trajectories")]}
    refused("sft", parents, settings, tmp_path / "x" / "out", error, complaint)


def test_a_template_that_leaves_the_end_of_a_turn_out_is_refused(tmp_path: Path) -> None:
    init = marked(tmp_path / "init", MARKED.replace("{{ eos_token }}{% endgeneration %}", "{% endgeneration %}!"))
    parents = {"init": [init], "data": [prepared(tmp_path / "data", MESSAGES, "trajectories")]}
    refused("sft", parents, {"loss_on": "assistant"}, tmp_path / "x" / "out", ContractError, "learn to stop")


def test_a_reference_is_for_the_methods_that_have_one(tmp_path: Path) -> None:
    init = base(tmp_path / "init", "llama")
    parents = {"init": [init], "data": [prepared(tmp_path / "data", DEMOS, "trajectories")], "reference": [init]}
    refused("sft", parents, {}, tmp_path / "x" / "out", ContractError, "method=sft has no reference")
