"""Adapters of a model that no process holds whole, or none unrounded, are merged into the parent's stored weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from posttrain.artifacts.artifact import Artifact
from posttrain.training import arguments, launch, policy
from posttrain.training.hardware import quantized
from posttrain.training.policy import lora_config, merged_into, save_policy
from posttrain.training.settings import TrainSettings
from tests.training.jobs import BRIEF, SUMS, answered, base, prepared, record, run, same_weights, weights

ADAPTERS = TrainSettings(lora_rank=4, lora_alpha=8)


def adapted(init: Path, task: str) -> torch.nn.Module:
    """A model with adapters that change what it says."""
    if task == "CAUSAL_LM":
        model = AutoModelForCausalLM.from_pretrained(init)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(init, num_labels=1)
    adapted = get_peft_model(model, lora_config(ADAPTERS, task))
    torch.manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
def test_a_merge_into_the_parent_is_the_merge(tmp_path: Path, task: str) -> None:
    init = Artifact(base(tmp_path / "init", "llama"), record(tmp_path / "init"))
    model = adapted(init.path, task)
    apart = merged_into(init, model).state_dict()
    in_place = model.merge_and_unload().state_dict()
    assert apart.keys() == in_place.keys()
    assert all(torch.equal(apart[name], in_place[name]) for name in apart)


def test_large_weights_are_written_in_files_that_a_store_can_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = Artifact(base(tmp_path / "init", "llama"), record(tmp_path / "init"))
    model = AutoModelForCausalLM.from_pretrained(init.path)
    save_policy(model, init, tmp_path / "one")
    monkeypatch.setattr(policy, "SHARD", 50_000)
    (tmp_path / "many").mkdir()
    save_policy(model, Artifact(tmp_path / "one", init.record), tmp_path / "many")
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 1
    assert same_weights(tmp_path / "one", tmp_path / "many")
    save_policy(AutoModelForCausalLM.from_pretrained(tmp_path / "many"), init, tmp_path / "again")
    assert same_weights(tmp_path / "one", tmp_path / "again")


def test_a_quantised_models_adapters_meet_unrounded_weights(tmp_path: Path) -> None:
    init = Artifact(base(tmp_path / "init", "llama"), record(tmp_path / "init"))
    model = adapted(init.path, "CAUSAL_LM")
    expected = merged_into(init, model).state_dict()
    # What rounding does to the frozen weights, without bitsandbytes.
    model.base_model.model.is_quantized = True
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data.mul_(8).round_().div_(8)
    save_policy(model, init, tmp_path / "saved")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "saved").items())


def test_qlora_trains_adapters_beside_four_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bitsandbytes computes on a CPU too, slowly, which users are not offered."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(arguments, "refuse_impossible", lambda settings: None)
    monkeypatch.setattr(launch, "refuse_impossible", lambda settings: None)
    monkeypatch.setattr(arguments, "quantized", lambda settings: quantized(settings) | {"device_map": {"": "cpu"}})
    init = base(tmp_path / "init", "llama", hidden_size=64, intermediate_size=128)
    data = prepared(tmp_path / "data", answered(SUMS), "trajectories")
    settings = BRIEF | {"max_steps": 6, "batch_size": 8, "lora_rank": 4, "lora_alpha": 8, "quantize": "4bit"}
    trained = run("sft", tmp_path / "sft", settings, init=init, data=data)
    losses = [loss for _, loss in record(trained).curves["loss"]]
    assert losses[-1] < 0.7 * losses[0]
    before, after = weights(init), weights(trained)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "_proj" in name}
    # What rounding to 4 bits changes is of full rank.
    assert all(torch.linalg.matrix_rank(after[name] - before[name], tol=1e-4) == 4 for name in moved)


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init = Artifact(base(tmp_path / "init", "llama"), record(tmp_path / "init"))
    monkeypatch.setenv("RANK", "1")
    assert save_policy(AutoModelForCausalLM.from_pretrained(init.path), init, tmp_path / "saved") == {}
    assert not (tmp_path / "saved").exists()
