"""Stored distributions are the teacher's, token by token; the loss on them is what it says, and the student's alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.artifacts import topk
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ConfigError, ContractError
from posttrain.generation.tokenizer import load_tokenizer
from posttrain.generation.transformers import load_policy
from posttrain.training.stored_logits import divergence, taught_rows
from tests.made import refused
from tests.training.jobs import BRIEF, SUMS, answered, base, chat, prepared, record, run, same_weights, weights

LOGITS: dict[str, Any] = BRIEF | {"method": "logit_distillation", "max_length": 64}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("logits")
    for seed, name in enumerate(("student", "teacher")):
        base(home / name, "llama", seed=seed, chat_template=True)
    prepared(home / "data", answered(SUMS), "trajectories")
    prepared(home / "chat", chat(answered(SUMS)), "trajectories")
    for name in ("data", "chat"):
        stored(home, home / f"{name}_all", name, k=200)
    stored(home, home / "data_few", "data", k=4)
    return home


def stored(home: Path, out: Path, data: str, **settings: Any) -> Path:
    return run("teacher_logits", out, {"max_length": 64} | settings, teacher=home / "teacher", data=home / data)


@pytest.mark.parametrize("data", ["data", "chat"])
def test_what_is_stored_is_the_teachers_distribution_at_the_students_tokens(home: Path, data: str) -> None:
    model, tokenizer = load_policy(home / "teacher")
    rows = read_trajectories(home / f"{data}_all")
    kept = topk.TopK(home / f"{data}_all", [row[topk.COLUMN] for row in rows])
    dataset, _ = taught_rows(tokenizer, rows, 64, 64)
    for index, row in enumerate(dataset):
        taught = [position for position, label in enumerate(row["labels"]) if label >= 0]
        text = tokenizer.decode([row["labels"][position] for position in taught])
        assert text.startswith(answered(SUMS)[index]["completion"])
        with torch.no_grad():
            whole = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        ids, logprobs = kept[index]
        assert logprobs.shape == (len(taught), len(tokenizer))
        for position, own_ids, own in zip(taught, ids, logprobs, strict=True):
            expected = whole[position - 1][torch.from_numpy(own_ids.astype(np.int64))].numpy()
            np.testing.assert_allclose(own, expected, rtol=1e-3, atol=1e-4)
            assert (np.diff(own) <= 0).all(), "the likeliest first"


def test_the_rows_stay_and_coverage_is_measured(home: Path) -> None:
    made, rows = record(home / "data_few"), read_trajectories(home / "data_few")
    plain = read_trajectories(home / "data")
    assert [{key: row[key] for key in plain[0]} for row in rows] == plain
    _, logprobs = (np.load(home / "data_few" / name) for name in (topk.IDS_FILE, topk.LOGPROBS_FILE))
    assert logprobs.shape == (sum(row[topk.COLUMN] for row in rows), 4)
    covered = np.exp(logprobs.astype(np.float32)).sum(-1)
    assert made.metrics["coverage"] == pytest.approx(covered.mean(), rel=1e-4)
    assert made.metrics["low_coverage_share"] == pytest.approx((covered < 0.9).mean())
    assert made.facts["k"] == 4 and made.facts["teacher"] == record(home / "teacher").digest
    assert record(home / "data_all").metrics["coverage"] == pytest.approx(1, abs=1e-3)
    assert record(stored(home, home / "again", "data", k=4, batch_rows=64)).digest == made.digest


def full(teacher: torch.Tensor, student: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    p, q = (logits / temperature for logits in (teacher, student))
    return (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)


def test_the_divergence(home: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    theirs, mine = torch.randn(2, 5, 9, generator=draw) * 2
    every = theirs.log_softmax(-1).sort(descending=True)
    for bucket, heat in ((True, 1.0), (False, 1.0), (False, 2.0)):
        whole = divergence(mine, every.indices, every.values, heat, bucket)
        torch.testing.assert_close(whole, heat**2 * full(theirs, mine, heat), msg="all tokens: the whole divergence")
    logprobs, ids = every.values[:, :3], every.indices[:, :3]
    merged = [torch.cat([logits.softmax(-1).gather(-1, ids)], -1) for logits in (theirs, mine)]
    p, q = (torch.cat([part, 1 - part.sum(-1, keepdim=True)], -1) for part in merged)
    bucketed = divergence(mine, ids, logprobs, 1.0, True)
    torch.testing.assert_close(bucketed, (p * (p / q).log()).sum(-1))
    assert (bucketed <= full(theirs, mine)).all(), "merging outcomes loses divergence"
    conditioned = divergence(mine, ids, logprobs, 1.0, False)
    torch.testing.assert_close(conditioned, full(theirs.gather(-1, ids), mine.gather(-1, ids)))
    # A student that agrees on the stored tokens and spreads the rest otherwise has nothing to learn.
    agreeing = theirs.clone()
    others = every.indices[:, 3:]
    agreeing.scatter_(-1, others, theirs.gather(-1, others).logsumexp(-1, keepdim=True).expand(-1, 6) - np.log(6))
    assert divergence(agreeing, ids, logprobs, 1.0, True).abs().max() < 1e-5
    mine.requires_grad_()
    certain = torch.tensor([[0.0, -60000.0]]).expand(5, 2)
    divergence(mine, ids[:, :2], certain, 1.0, True).sum().backward()
    assert mine.grad is not None and mine.grad.isfinite().all(), "a teacher without doubt leaves no rest"


def test_the_rows_tokens_alone_are_supervised_learning(home: Path, tmp_path: Path) -> None:
    plain = {"trainer_args": {"optim": "sgd", "max_grad_norm": 0.0}, "learning_rate": 0.1, "accumulation": 2}
    hard = run("distill", tmp_path / "hard", LOGITS | plain | {"hard_weight": 1.0}, init=home / "student",
               data=home / "data_few")  # fmt: skip
    sft = run("sft", tmp_path / "sft", BRIEF | plain | {"max_length": 64}, init=home / "student", data=home / "data")
    mine, theirs = weights(hard), weights(sft)
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-6) for name in mine)
    assert not same_weights(hard, home / "student")
    made = record(hard)
    assert made.trace is not None and (made.trace.provenance, made.trace.rows) == ("off-policy", 16)
    assert made.facts["taught_by"] == record(home / "teacher").digest


def test_a_student_that_is_its_teacher_has_nothing_to_learn(home: Path, tmp_path: Path) -> None:
    for name, student in (("same", "teacher"), ("other", "student")):
        taught = run("distill", tmp_path / name, LOGITS | {"max_steps": 1}, init=home / student, data=home / "data_few")
        learned = record(taught).curves["divergence"][0][1]
        assert (learned < 1e-3) == (name == "same"), learned


def test_cut_rows_are_counted_and_learn_from_what_is_left(home: Path, tmp_path: Path) -> None:
    settings = LOGITS | {"max_length": 5, "max_truncated": 1.0}
    taught = run("distill", tmp_path / "cut", settings, init=home / "student", data=home / "data_few")
    assert record(taught).counts == {"rows": 16, "truncated": 16, "without_completion": 0}
    rows = read_trajectories(home / "data_few")
    dataset, lengths = taught_rows(load_tokenizer(home / "student"), rows, 64, 4)
    assert (len(dataset), len(lengths)) == (0, 16) and min(lengths) > 4, "a prompt is four tokens"


REFUSED: dict[str, tuple[dict[str, Any], dict[str, str], type[Exception], str]] = {
    "no logits": ({}, {"data": "data"}, ContractError, "data holds no teacher's distributions; make it with the stage"),
    "another teacher": ({}, {"data": "data_few", "teacher": "student"}, ContractError, "not of the teacher"),
    "longer rows": ({"max_length": 65}, {"data": "data_few"}, ContractError, "max_length=65, but data was stored up"),
    "cut rows": ({"max_length": 5}, {"data": "data_few"}, ContractError, "over max_length=5 (16 of 16 rows, allowed"),
    "heat": ({"temperature": 2.0}, {"data": "data_few"}, ConfigError, "set rest=renormalise"),
    "rollouts": ({"divergence": "jsd"}, {"data": "data_few"}, ConfigError, "divergence=jsd with method=logit_dist"),
    "packing": ({"trainer_args": {"packing": True}}, {"data": "data_few"}, ConfigError, "trainer_args.packing"),
    "problems": ({}, {"data": "data_few", "problems": "problems"}, ContractError, "has no use for a parent 'problems'"),
    "tokenizer": ({}, {"init": "other", "data": "data_few"}, ContractError, "tokenizer differs between init"),
    "vocabulary": ({}, {"init": "small", "data": "data_few"}, ContractError, "data's teacher predicts 99 tokens, init"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(home: Path, tmp_path: Path, case: str) -> None:
    settings, roles, error, complaint = REFUSED[case]
    made = {"other": lambda: base(tmp_path / "other", "llama", chat_template=True, characters="0123456789+="),
            "small": lambda: base(tmp_path / "small", "llama", chat_template=True, vocab_size=98),
            "problems": lambda: prepared(tmp_path / "problems", SUMS, "problems")}  # fmt: skip
    given = {"init": "student"} | roles
    parents = {role: [made[name]() if name in made else home / name] for role, name in given.items()}
    refused("distill", parents, LOGITS | settings, tmp_path / "x" / "out", error, complaint)  # type: ignore[arg-type]


def test_rows_that_were_changed_after_storing_are_refused(home: Path) -> None:
    rows = read_trajectories(home / "data_few")
    rows[2]["completion"] += "0"
    with pytest.raises(ContractError, match="data row 3 has 3 completion tokens where 2 were stored"):
        taught_rows(load_tokenizer(home / "student"), rows, 64, 64)


STORING: dict[str, tuple[dict[str, Any], list[dict[str, Any]], str]] = {
    "pairs": (
        {},
        [{"prompt": "1", "chosen": "2", "rejected": "3"}],
        "data has shape 'preference'; give rows of prompt",
    ),
    "texts": ({}, [{"text": "1+1=2"}], "data has shape 'text'"),
    "too long": ({"max_length": 129}, answered(SUMS), "max_length=129 is over the teacher's context of 128"),
    "too short": ({"max_length": 4}, answered(SUMS), "every prompt of data has max_length=4 tokens or more; raise it"),
}


@pytest.mark.parametrize("case", STORING)
def test_what_cannot_be_stored_is_refused(home: Path, tmp_path: Path, case: str) -> None:
    settings, rows, complaint = STORING[case]
    parents = {"teacher": [home / "teacher"], "data": [prepared(tmp_path / "data", rows, "trajectories")]}
    refused("teacher_logits", parents, settings, tmp_path / "x" / "out", ContractError, complaint)
