"""Several teachers: a batch of one slice is its teacher's alone, a mixed one the sum, and a student takes up both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.errors import ConfigError, ContractError, ProvenanceError
from tests.effects.of_distillation import divergence
from tests.made import refused
from tests.training.jobs import BRIEF, SUMS, base, prepared, record, run, same_weights, weights

ROUTES = {"left": 1, "right": 2}
SIDES = [row | {"slice": "left" if number % 2 else "right"} for number, row in enumerate(SUMS)]
TEACH: dict[str, Any] = BRIEF | {"max_new_tokens": 4, "batch_size": 4, "accumulation": 2, "max_steps": 1}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("teachers")
    for seed, name in enumerate(("student", "first", "second")):
        base(home / name, "qwen2", seed=seed)
    prepared(home / "problems", SIDES, "problems")
    return home


def taught(home: Path, out: Path, teachers: list[str], **settings: Any) -> Path:
    parents = {"init": home / "student", "teacher": [home / name for name in teachers], "problems": home / "problems"}
    return run("distill", out, TEACH | settings, **parents)


@pytest.mark.parametrize(("side", "teacher"), [("left", "first"), ("right", "second")])
def test_batches_of_one_slice_are_single_teacher_distillation(
    home: Path, tmp_path: Path, side: str, teacher: str
) -> None:
    several = taught(home, tmp_path / "several", ["first", "second"], routes=ROUTES, slices=[side])
    alone = taught(home, tmp_path / "alone", [teacher], slices=[side])
    assert same_weights(several, alone)
    assert not same_weights(several, home / "student")
    assert record(several).counts == {"problems": 8, "rollouts": 8, f"rollouts_teacher_{ROUTES[side]}": 8}


def test_a_mixed_batch_is_the_sum_of_its_parts(home: Path, tmp_path: Path) -> None:
    # Plain SGD: Adam's first step would turn a rounding error in a tiny gradient into a whole step.
    plain = {"trainer_args": {"optim": "sgd", "max_grad_norm": 0.0}, "learning_rate": 1.0, "batch_size": 8}
    twice = taught(home, tmp_path / "twice", ["first", "first"], routes=ROUTES, **plain)
    once = taught(home, tmp_path / "once", ["first"], **plain)
    other = taught(home, tmp_path / "other", ["first", "second"], routes=ROUTES, **plain)
    before, expected, split, mixed = (weights(policy) for policy in (home / "student", once, twice, other))
    step = max(float((expected[name] - before[name]).abs().max()) for name in before)
    assert all(torch.allclose(split[name], expected[name], atol=1e-4 * step) for name in before)
    assert any(float((mixed[name] - expected[name]).abs().max()) > 0.01 * step for name in before)
    assert record(other).counts["rollouts_teacher_1"] == record(other).counts["rollouts_teacher_2"] == 8


def test_a_student_takes_up_what_each_teacher_does_on_its_slice(home: Path, tmp_path: Path) -> None:
    settings = {"max_steps": 40, "batch_size": 16, "accumulation": 1, "learning_rate": 3e-3}
    student = taught(home, tmp_path / "both", ["first", "second"], routes=ROUTES, **settings)
    for side, teacher in (("left", "first"), ("right", "second")):
        prompts = [row["prompt"] for row in SIDES if row["slice"] == side]
        before, after = (divergence(policy, home / teacher, prompts) for policy in (home / "student", student))
        assert after < 0.6 * before


REFUSED: dict[str, tuple[list[str], dict[str, Any], type[Exception], str]] = {
    "no routes": (["first", "second"], {}, ContractError, "2 teachers, but routes has none for left, right"),
    "a slice": (["first", "second"], {"routes": {"left": 2}}, ContractError, "routes has none for right; give every"),
    "a number": (["first"], {"routes": {"left": 2}}, ContractError, "routes.left=2, but there are 1 teachers"),
    "counted from 0": (["first"], {"routes": {"left": 0}}, ConfigError, "routes.left=0"),
    "no rollouts": (["first"], {"routes": ROUTES, "method": "sequence_distillation"}, ConfigError, "leave routes out"),
    "tokenizers": (["first", "other"], {"routes": ROUTES}, ContractError, "differs between init"),
    "padding": (["first", "padded"], {"routes": ROUTES}, ContractError, "teacher_2 predicts 128 tokens, init 99"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(home: Path, tmp_path: Path, case: str) -> None:
    teachers, settings, error, complaint = REFUSED[case]
    paths = {name: home / name for name in ("first", "second")}
    paths["other"] = base(tmp_path / "other", "qwen2", characters="0123456789+=")
    paths["padded"] = base(tmp_path / "padded", "qwen2", vocab_size=128)
    given = [paths[name] for name in teachers]
    parents = {"init": [home / "student"], "teacher": given, "problems": [home / "problems"]}
    refused("distill", parents, TEACH | settings, tmp_path / "x" / "out", error, complaint)  # type: ignore[arg-type]


def test_sequences_may_come_from_any_of_the_teachers(home: Path, tmp_path: Path) -> None:
    samples = {
        name: run("rollout", tmp_path / name, {"max_new_tokens": 4}, policy=home / name, problems=home / "problems")
        for name in ("first", "second")
    }
    settings = BRIEF | {"method": "sequence_distillation"}
    parents = {"init": home / "student", "teacher": [home / "first", home / "second"]}
    for name, data in samples.items():
        made = record(run("distill", tmp_path / f"from_{name}", settings, data=data, **parents))
        assert made.trace is not None
        assert list(made.trace.samplers) == [record(home / name).digest]
    parents["teacher"] = [home / "first"]
    given = {role: [path] if isinstance(path, Path) else path for role, path in parents.items()}
    given["data"] = [samples["second"]]
    refused("distill", given, settings, tmp_path / "x" / "out", ProvenanceError, "were not sampled by the teacher")
