"""What settings mean on a machine, and which of them are refused before any process starts."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch

from posttrain.errors import ConfigError
from posttrain.settings import parse_settings
from posttrain.training.hardware import (
    STRATEGIES,
    Nodes,
    global_batch,
    hardware_arguments,
    processes_here,
    processes_in_all,
    refuse_impossible,
)
from posttrain.training.settings import TrainSettings

GPUs = Callable[[int], None]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> GPUs:
    """Pretend that so many GPUs are visible."""
    for name in ("WORLD_SIZE", "PET_NNODES"):
        monkeypatch.delenv(name, raising=False)

    def visible(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: number > 0)

    return visible


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quantize": "4bit"}, "quantize=4bit with lora_rank=0"),
        ({"quantize": "4bit", "lora_rank": 8, "strategy": "fsdp"}, "quantize=4bit with strategy=fsdp"),
        ({"strategy": "zero3", "processes": 1}, "strategy=zero3 with processes=1"),
        ({"track": ["comet"]}, "track.0='comet'"),
        ({"strategy": "fdsp"}, "strategy='fdsp'"),
        ({"processes": -1}, "processes=-1"),
    ],
)
def test_contradictions_are_refused_when_a_recipe_is_read(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_settings(TrainSettings, settings, "sft")


@pytest.mark.parametrize(
    ("visible", "settings", "said"),
    [
        (0, {"strategy": "fsdp", "processes": 2}, "strategy=fsdp shards over GPUs, but none is visible"),
        (1, {"strategy": "zero3"}, "strategy=zero3, but one process trains"),
        (2, {"processes": 4}, "processes=4, but 2 GPUs are visible"),
        (2, {"processes": 1}, "processes=1, but 2 GPUs are visible"),
        (0, {"quantize": "4bit", "lora_rank": 8}, "quantize=4bit needs a GPU"),
        (0, {"liger": True}, "liger=true needs a GPU"),
        (1, {"liger": True}, "liger=true needs the package liger-kernel"),
        (1, {"quantize": "4bit", "lora_rank": 8}, "quantize=4bit needs the package bitsandbytes"),
        (2, {"strategy": "zero2"}, "strategy=zero2 needs the package deepspeed"),
        (0, {"track": ["mlflow"]}, "track=mlflow needs the package mlflow"),
    ],
)
def test_what_this_machine_cannot_do_is_refused(
    gpus: GPUs, monkeypatch: pytest.MonkeyPatch, visible: int, settings: dict[str, Any], said: str
) -> None:
    gpus(visible)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=said):
        refuse_impossible(TrainSettings(**settings))


def test_every_visible_gpu_gets_a_process(gpus: GPUs, monkeypatch: pytest.MonkeyPatch) -> None:
    for visible, processes in ((0, 1), (1, 1), (8, 8)):
        gpus(visible)
        assert processes_here(TrainSettings()) == processes
    assert processes_here(TrainSettings(processes=4)) == 4
    settings = TrainSettings(batch_size=4, accumulation=2)
    assert global_batch(settings) == 4 * 2 * 8
    for name, value in {
        "NNODES": "3",
        "NODE_RANK": "1",
        "MASTER_ADDR": "job-node-0-0.job",
        "MASTER_PORT": "29400",
    }.items():
        monkeypatch.setenv(f"PET_{name}", value)
    assert Nodes.from_environment() == Nodes(3, 1, "job-node-0-0.job", 29400)
    assert (processes_in_all(settings), global_batch(settings)) == (24, 4 * 2 * 24)
    monkeypatch.setenv("WORLD_SIZE", "24")  # as inside one of the processes
    assert global_batch(settings) == 4 * 2 * 24


def test_precision_and_memory_follow_the_machine(gpus: GPUs) -> None:
    gpus(0)
    assert hardware_arguments(TrainSettings()) == {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    assert hardware_arguments(TrainSettings(precision="bf16", gradient_checkpointing="always")) == {
        "use_cpu": True,
        "bf16": True,
        "gradient_checkpointing": True,
    }
    gpus(2)
    assert hardware_arguments(TrainSettings()) == {"use_cpu": False, "bf16": True, "gradient_checkpointing": True}
    assert hardware_arguments(TrainSettings(precision="fp32"))["bf16"] is False
    assert hardware_arguments(TrainSettings(liger=True))["use_liger_kernel"] is True


@pytest.mark.parametrize(("when", "recompute"), [("auto", True), ("always", True), ("never", False)])
def test_fsdp_recomputes_by_itself(gpus: GPUs, when: Any, recompute: bool) -> None:
    gpus(2)
    arguments = hardware_arguments(TrainSettings(strategy="fsdp", gradient_checkpointing=when))
    assert (arguments["fsdp"], arguments["gradient_checkpointing"]) == (True, False)
    assert arguments["fsdp_config"]["activation_checkpointing"] is recompute
    assert "activation_checkpointing" not in STRATEGIES["fsdp"]["fsdp_config"]


def test_zero_shards_what_its_paper_says(gpus: GPUs) -> None:
    gpus(2)
    stages = {
        name: hardware_arguments(TrainSettings(strategy=name))["deepspeed"]["zero_optimization"]["stage"]
        for name in ("zero2", "zero3")
    }
    assert stages == {"zero2": 2, "zero3": 3}
