"""GKD: at a share of 1 it is on-policy distillation, at 0 a divergence on fixed tokens, between them some of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.artifacts.provenance import mixed, offline, online
from posttrain.errors import ConfigError, ContractError
from posttrain.training.mixing import sampled_by
from tests.made import refused
from tests.training.jobs import BRIEF, SUMS, answered, base, prepared, record, run, same_weights, weights

GKD: dict[str, Any] = BRIEF | {"method": "gkd", "max_new_tokens": 4, "accumulation": 2, "max_steps": 4, "batch_size": 2}
SIDES = [row | {"slice": "left" if number % 2 else "right"} for number, row in enumerate(answered(SUMS))]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("mixed")
    for seed, name in enumerate(("student", "teacher")):
        base(home / name, "llama", seed=seed)
    prepared(home / "problems", SUMS, "problems")
    prepared(home / "data", SIDES, "trajectories")
    run("rollout", home / "samples", {"samples": 1, "max_new_tokens": 3}, policy=home / "teacher",
        problems=home / "problems")  # fmt: skip
    return home


def taught(home: Path, out: Path, data: str = "data", **settings: Any) -> Path:
    return run("distill", out, GKD | settings, init=home / "student", teacher=home / "teacher", data=home / data)


def test_a_share_of_one_is_on_policy_distillation(home: Path, tmp_path: Path) -> None:
    all_sampled = taught(home, tmp_path / "all", on_policy_share=1.0)
    on_policy = GKD | {"method": "on_policy_distillation"}
    parents = {"init": home / "student", "teacher": home / "teacher", "problems": home / "problems"}
    assert same_weights(all_sampled, run("distill", tmp_path / "on", on_policy, **parents))
    assert record(all_sampled).trace == record(tmp_path / "on").trace
    assert not same_weights(all_sampled, taught(home, tmp_path / "half", on_policy_share=0.5))


@pytest.mark.parametrize(("share", "provenance", "fraction"), [(0.0, "off-policy", 0.0), (0.25, "mixed", 0.25)])
def test_provenance_is_what_was_trained_on(
    home: Path, tmp_path: Path, share: float, provenance: str, fraction: float
) -> None:
    made = record(taught(home, tmp_path / "out", "samples", on_policy_share=share))
    student, teacher = (record(home / name).digest for name in ("student", "teacher"))
    assert made.trace is not None
    assert (made.trace.provenance, made.trace.on_policy_fraction, made.trace.rows) == (provenance, fraction, 16)
    counted = {student: int(16 * fraction), teacher: 16 - int(16 * fraction)}
    assert made.trace.samplers == {sampler: count for sampler, count in counted.items() if count}
    assert made.trace.self_generated_fraction == fraction


def test_a_fixed_batch_is_the_divergence_on_its_own_tokens(home: Path, tmp_path: Path) -> None:
    sgd = {"trainer_args": {"optim": "sgd", "max_grad_norm": 0.0}, "schedule": "constant", "learning_rate": 0.5}
    settings = {"batch_size": 16, "accumulation": 1, "max_steps": 1, "on_policy_share": 0.0, "divergence": "forward"}
    after = weights(taught(home, tmp_path / "out", **sgd, **settings))
    mine, theirs = (AutoModelForCausalLM.from_pretrained(home / name) for name in ("student", "teacher"))
    from posttrain.generation.tokenizer import load_tokenizer

    tokenizer, total, tokens = load_tokenizer(home / "student"), torch.zeros(()), 0
    for row in answered(SUMS):
        start = len(tokenizer(row["prompt"])["input_ids"])
        ids = torch.tensor([tokenizer(row["prompt"] + row["completion"] + "<eos>")["input_ids"]])
        q, p = (model(ids).logits[0, start - 1 : -1].log_softmax(-1) for model in (mine, theirs))
        total, tokens = total + (p.exp() * (p - q)).sum(), tokens + len(q)
    (total / tokens).backward()
    for name, parameter in mine.named_parameters():
        assert torch.allclose(after[name], parameter - 0.5 * parameter.grad, atol=1e-5), name


def test_batches_of_one_slice_go_to_its_teacher(home: Path, tmp_path: Path) -> None:
    made = run("distill", tmp_path / "out", GKD | {"routes": {"left": 1, "right": 2}}, init=home / "student",
               teacher=[home / "teacher", home / "student"], data=home / "data")  # fmt: skip
    counts = record(made).counts
    assert counts["rollouts_teacher_1"] + counts["rollouts_teacher_2"] == 16
    assert (counts["problems"], counts["rollouts"], counts["truncated"]) == (16, 8, 0)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1 / 3, 0.5, 0.99, 1.0])
def test_the_share_is_met_at_every_length(share: float) -> None:
    for batches in range(1, 200):
        assert abs(sampled_by(batches, share) - share * batches) < 1
        assert sampled_by(batches, share) - sampled_by(batches - 1, share) in (0, 1)
    assert sampled_by(200, share) == pytest.approx(share * 200, abs=0.999)


def test_a_mixture_of_traces() -> None:
    sampled = online({0: 30, 2: 10}, "me", bound=0)
    both = mixed(sampled, {"me": 20, "you": 20}, "me")
    assert (both.provenance, both.on_policy_fraction, both.self_generated_fraction) == ("mixed", 30 / 80, 60 / 80)
    assert both.samplers == {"me": 60, "you": 20}
    assert mixed(sampled, {}, "me") == sampled
    fixed = mixed(online({}, "me", 0), {"you": 3}, "me")
    assert fixed == offline(["you"] * 3, "me")


REFUSED: dict[str, tuple[dict[str, Any], dict[str, str], type[Exception], str]] = {
    "no data": ({}, {"teacher": "teacher"}, ContractError, "method=gkd needs a parent 'data'"),
    "no teacher": ({}, {"data": "data"}, ContractError, "method=gkd needs a parent 'teacher'"),
    "problems too": ({}, {"teacher": "teacher", "data": "data", "problems": "problems"}, ContractError,
                     "has no use for a parent 'problems'; leave it out, or use on_policy_distillation"),
    "a share": ({"on_policy_share": 1.5}, {"teacher": "teacher", "data": "data"}, ConfigError, "on_policy_share=1.5"),
    "cut": ({"max_new_tokens": 1}, {"teacher": "teacher", "data": "data"}, ContractError,
            "over max_new_tokens=1 (16 of 16 rows, allowed"),
    "fixed on-policy": ({"method": "on_policy_distillation"},
                        {"teacher": "teacher", "data": "data", "problems": "problems"}, ContractError,
                        "method=on_policy_distillation has no use for a parent 'data'; leave it out, or use gkd"),
    "a share of on-policy": ({"method": "on_policy_distillation", "on_policy_share": 0.2},
                             {"teacher": "teacher", "problems": "problems"}, ConfigError,
                             "on_policy_share=0.2 with method=on_policy_distillation; leave on_policy_share out"),
    "a divergence of sequences": ({"method": "sequence_distillation", "divergence": "forward"},
                                  {"teacher": "teacher", "data": "data"}, ConfigError,
                                  "divergence=forward with method=sequence_distillation"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(home: Path, tmp_path: Path, case: str) -> None:
    settings, roles, error, complaint = REFUSED[case]
    parents = {role: [home / name] for role, name in ({"init": "student"} | roles).items()}
    refused("distill", parents, GKD | settings, tmp_path / "x" / "out", error, complaint)  # type: ignore[arg-type]
