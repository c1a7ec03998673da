"""Labels by rollouts, where the truth is known: right is what begins with an a, whatever follows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from posttrain.components.step_labels.reachability import Path as Reached
from posttrain.components.step_labels.reachability import by_depth

from posttrain import verifiers
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ContractError, DataError, VerifierError
from posttrain.stage import execute
from posttrain.verifiers import Verdict
from posttrain.verifiers.verdict import UNSCORABLE
from tests.generation import vllm_parts as parts
from tests.made import refused
from tests.training.jobs import base, chat, prepared, record, run

SOME: dict[str, Any] = {"separator": ";", "samples": 6, "max_new_tokens": 5}


@verifiers.register("begins_with_a")
def begins_with_a(completion: str, reference: Any, prompt: str) -> Verdict:
    return UNSCORABLE if completion.startswith("c") else Verdict(float(completion.startswith("a")), completion)


@verifiers.register("has_an_a")
def has_an_a(completion: str, reference: Any, prompt: str) -> Verdict:
    return Verdict(float("a" in completion), completion)


def solution(problem: str, completion: str, **more: Any) -> dict[str, Any]:
    own = {"prompt": f"{problem}?", "completion": completion, "problem_id": problem}
    return own | {"verifier": "begins_with_a", "sampler": "somebody", **more}


SOLUTIONS = [
    solution("1", "a;b;c"),
    solution("1", "a;b;a"),
    solution("1", "b;a"),
    solution("2", "b;b;b"),
    solution("2", "a"),
    solution("2", "a;bb", finish="length"),
    solution("3", "bb", finish="length"),
    solution("3", "c;b"),
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Begins with an a about once in six times."""
    home = tmp_path_factory.mktemp("completer")
    return base(home / "policy", "llama", characters="abc;?123", chat_template=True, initializer_range=0.02)


def labelled(home: Path, policy: Path, rows: list[dict[str, Any]], **settings: Any) -> Path:
    home.mkdir(exist_ok=True)
    data = prepared(home / "solutions", rows, "trajectories")
    return run("step_labels", home / "labelled", SOME | settings, policy=policy, trajectories=data)


def test_labels_are_shares_of_right_continuations(policy: Path, tmp_path: Path) -> None:
    made = labelled(tmp_path, policy, SOLUTIONS)
    rows = {"".join(row["completions"]): row for row in read_trajectories(made)}
    assert {text: row["labels"] for text, row in rows.items()} == {
        "a;b;c": [1, 1, 1],
        "a;b;a": [1, 1, 1],
        "b;a": [0, 0],
        "b;b;b": [0, 0, 0],
        "a": [1],
        "a;": [1],
    }
    assert rows["a;b;c"]["completions"] == ["a;", "b;", "c"]
    assert {row["sampler"] for row in rows.values()} == {"somebody"}
    facts = record(made).facts
    assert (facts["shape"], facts["separator"], facts["completer"]) == ("stepwise", ";", record(policy).digest)
    assert facts["verifiers"].startswith("begins_with_a@")


def test_rollouts_are_shared_by_solutions_that_are_judged_alike_alone(policy: Path, tmp_path: Path) -> None:
    """One prompt with two verifiers, as when data sets are mixed: each label is by the row's own."""
    rows = [solution("1", "b;a"), solution("1", "b;a;b", verifier="has_an_a")]
    made = labelled(tmp_path, policy, [{**row, "problem_id": None} for row in rows], samples=64)
    [begins, has] = [row["labels"] for row in read_trajectories(made)]
    assert begins == [0, 0] and 0 < has[0] < has[1] == has[2] == 1
    assert (record(made).counts["prefixes"], record(made).counts["prefixes_shared"]) == (5, 0)


@pytest.mark.skipif(parts.REAL, reason="the attention of vLLM takes no heads as small as these")
def test_vllm_goes_on_from_tokens_too(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", parts.module())
    ours, theirs = (labelled(tmp_path / name, policy, SOLUTIONS, backend=name) for name in ("transformers", "vllm"))
    assert [row["labels"] for row in read_trajectories(theirs)] == [row["labels"] for row in read_trajectories(ours)]
    assert record(theirs).parameters["backend"] == "vllm"


def test_what_is_left_out_is_counted(policy: Path, tmp_path: Path) -> None:
    assert record(labelled(tmp_path, policy, SOLUTIONS)).counts == {
        "solutions": 8,
        "kept": 6,
        "steps": 15,
        "without_steps": 2,
        "truncated": 2,
        "too_long": 0,
        "retokenised": 0,
        "unscorable": 1,
        "prefixes": 16,  # 3 + 3 + 2 of the first problem, 3 + 1 + 2 of the second, and 2 of what cannot be scored
        "prefixes_shared": 6,
        "continuations_unscorable": record(tmp_path / "labelled").counts["continuations_unscorable"],
    }


def test_the_first_step_after_which_nothing_is_reachable(policy: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    data = prepared(tmp_path / "solutions", SOLUTIONS, "trajectories")
    from posttrain.components.catalogue import load_stage

    made = execute(
        load_stage("step_labels"),
        {"policy": [policy], "trajectories": [data]},
        SOME | {"samples": 64},
        tmp_path / "labelled",
        page,
    )
    assert made.metrics["reachable_after_0"] == 1.0
    assert made.metrics["reachable_after_1"] == pytest.approx((2 / 3 + 2 / 3) / 2), "the mean of problems, not of rows"
    assert (made.metrics["lost_share"], made.metrics["lost_at_step"]) == (2 / 6, 1.0)
    assert "Prefix reachability" in page.read_text(encoding="utf-8")


def test_a_prefix_is_reachable_if_a_longer_one_is() -> None:
    path = Reached("p", [0.5, 0.0, 0.25, 0.0], True)
    assert (path.reachable, path.lost_at) == ([True, True, True, False], 3)
    assert Reached("p", [0.0, 0.0], True).lost_at == 0
    assert Reached("p", [0.1, 1.0], True).lost_at is None
    shares = by_depth([path, Reached("p", [0.0, 0.0], True), Reached("q", [0.0, 1.0, 1.0], True)], seed=0)
    assert [share.estimate for share in shares] == pytest.approx([0.75, 0.75, 1.0, 0.0])
    assert shares[3].low == 0 < shares[3].high < 1 or shares[3].high == pytest.approx(0.95), "one problem says little"


def test_conversations_are_labelled_as_texts_are(policy: Path, tmp_path: Path) -> None:
    rows = read_trajectories(labelled(tmp_path, policy, chat(SOLUTIONS)))
    assert [row["labels"] for row in rows] == [[1, 1, 1], [1, 1, 1], [0, 0], [0, 0, 0], [1], [1]]
    assert rows[0]["prompt"] == [{"role": "user", "content": "1?"}]


def test_rollouts_of_the_library_are_cut_where_they_were_sampled(policy: Path, tmp_path: Path) -> None:
    problems = prepared(tmp_path / "problems", [{"prompt": "1?", "verifier": "begins_with_a"}], "problems")
    sampled = run("rollout", tmp_path / "r", {"samples": 16, "max_new_tokens": 6}, policy=policy, problems=problems)
    counts = record(run("step_labels", tmp_path / "l", SOME, policy=policy, trajectories=sampled)).counts
    rows = read_trajectories(sampled)  # a token a character, but for special ones, which no text shows
    hidden = sum(len(row["logprobs"]) - (row["finish"] == "eos") != len(row["completion"]) for row in rows)
    assert (counts["solutions"], counts["retokenised"]) == (16, hidden)
    assert 0 < hidden < 16


def test_what_fills_the_completers_context_is_left_out(policy: Path, tmp_path: Path) -> None:
    short = base(tmp_path / "short", "llama", characters="abc;?123", context=12)
    rows = [solution("1", "a;b"), solution("2", "a" * 12 + ";b"), solution("3", "b;" * 8, finish="length")]
    data = prepared(tmp_path / "solutions", rows, "trajectories")
    made = run("step_labels", tmp_path / "labelled", SOME, policy=short, trajectories=data)
    assert [len(row["labels"]) for row in read_trajectories(made)] == [2, 4], "2 + 8 tokens leave room for one more"
    assert (record(made).counts["too_long"], record(made).counts["kept"]) == (1, 2)


def test_the_same_seed_gives_the_same_labels(policy: Path, tmp_path: Path) -> None:
    rows = [solution(n, "b;b;b;b", verifier="has_an_a") for n in "123"]
    first, again, other = (labelled(tmp_path / str(n), policy, rows, seed=n // 2) for n in range(3))
    assert record(first).digest == record(again).digest != record(other).digest
    assert len({label for row in read_trajectories(first) for label in row["labels"]}) > 2, "shares, not verdicts"


def test_what_cannot_be_labelled_is_refused(policy: Path, tmp_path: Path) -> None:
    def no(rows: list[dict[str, Any]], error: type[Any], *mentions: str) -> None:
        name = f"d{len(list(tmp_path.iterdir()))}"
        data = prepared(tmp_path / name, rows, "trajectories")
        parents = {"policy": [policy], "trajectories": [data]}
        refused("step_labels", parents, SOME, tmp_path / "x" / "out", error, *mentions)

    no([{"prompt": "1?", "completion": "a"}], ContractError, "names no verifier")
    no([{"prompt": "1?", "chosen": "a", "rejected": "b"}], ContractError, "preference rows are no solutions")
    long = chat([solution("1", "a")])[0]
    no([long | {"completion": long["completion"] * 2}], ContractError, "several messages")
    no([solution("1", "a", verifier="begins_with_b")], VerifierError, "unknown verifier")
    no([solution("1", "c")], DataError, "none of 1 solutions")
    plain = base(tmp_path / "plain", "llama")
    data = prepared(tmp_path / "chats", chat([solution("1", "a")]), "trajectories")
    parents = {"policy": [plain], "trajectories": [data]}
    refused("step_labels", parents, SOME, tmp_path / "x" / "out", ContractError, "no chat template")
