"""The stage revise: what is asked, what becomes of the answers, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from posttrain.components.revise import stage
from posttrain.components.revise.change import change_metrics

from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ConfigError, ContractError, DataError, VerifierError
from posttrain.generation.decoding import Completion
from tests.made import refused
from tests.training.jobs import Row, base, chat, prepared, record, run

BRIEF = {"max_new_tokens": 4, "critique": "{prompt}{answer}{principle}?", "revision": "{prompt}{answer}{critique}!"}
# prompt: first answer, critique, revision; the right answer of all is 2
TALK = {"a": ("1", "low", "2"), "b": ("2", "high", "1"), "c": ("1", "fine", "1"), "d": ("3", "odd", "")}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    base(home / "policy", "llama", chat_template=True)
    return home


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The policy answers as in TALK; what it was asked, in order."""
    seen: list[Any] = []

    def sample(policy: Any, problems: Any, settings: Any, progress: Any) -> list[list[Completion]]:
        prompts = [problem.prompt for problem in problems]
        seen.append((prompts, settings.seed))
        texts = [prompt if isinstance(prompt, str) else prompt[0]["content"] for prompt in prompts]
        return [[Completion(TALK[text[0]][2 if text.endswith("!") else 1], [], [], "eos")] for text in texts]

    monkeypatch.setattr(stage, "sample_problems", sample)
    return seen


def answers(**more: Any) -> list[Row]:
    return [
        {"prompt": name, "completion": first, "problem_id": name, "verifier": "exact", "reference": "2", **more}
        for name, (first, _, _) in TALK.items()
    ]


def revised(home: Path, out: Path, rows: list[Row], **settings: Any) -> Path:
    given = prepared(out.with_name(f"{out.name}-first"), rows, "trajectories")
    return run("revise", out, BRIEF | {"principles": ["x"]} | settings, policy=home / "policy", trajectories=given)


def test_a_critique_is_asked_for_and_shown_when_the_revision_is(home, tmp_path, asked):
    made = revised(home, tmp_path / "out", answers(sampler="someone"))
    assert [prompts for prompts, _ in asked] == [
        ["a1x?", "b2x?", "c1x?", "d3x?"], ["a1low!", "b2high!", "c1fine!", "d3odd!"],
    ]  # fmt: skip
    assert asked[0][1] != asked[1][1]  # draws of their own
    rows = read_trajectories(made)
    assert [(row["prompt"], row["completion"], row["reward"]) for row in rows] == [
        ("a", "2", 1),
        ("b", "1", 0),
        ("c", "1", 0),
    ]
    policy = record(home / "policy").digest
    assert {(row["sampler"], row["source"], row["verifier"]) for row in rows} == {(policy, "revise", "exact")}
    assert "logprobs" not in rows[0]
    counts = record(made).counts
    assert (counts["answers"], counts["kept"], counts["empty"], counts["worse"]) == (4, 3, 1, 0)
    metrics = record(made).metrics
    assert (metrics["reward_before"], metrics["reward_after"], metrics["reward_change"]) == (0.25, 0.25, 0)
    assert metrics["reward_change_low"] < 0 < metrics["reward_change_high"]
    assert (metrics["improved_share"], metrics["worsened_share"]) == (0.25, 0.25)
    assert record(made).facts["verifiers"] == "exact@0.1.0"


def test_what_got_worse_is_dropped_and_counted(home, tmp_path, asked):
    made = revised(home, tmp_path / "out", answers(), keep_better=True)
    assert [row["prompt"] for row in read_trajectories(made)] == ["a", "c"]
    assert (record(made).counts["worse"], record(made).counts["empty"]) == (1, 1)
    assert record(made).metrics["reward_after"] == 0.25  # of all, whatever is kept


def test_pairs_prefer_the_revision_and_name_both_samplers(home, tmp_path, asked):
    made = revised(home, tmp_path / "out", answers(sampler="someone"), output="pairs", keep_better=True)
    assert record(made).facts["shape"] == "preference"
    (row,) = read_trajectories(made)
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("a", "2", "1")
    assert (row["chosen_reward"], row["rejected_reward"]) == (1, 0)
    assert row["chosen_sampler"] == record(home / "policy").digest and row["rejected_sampler"] == "someone"
    assert (record(made).counts["unchanged"], record(made).counts["worse"]) == (1, 1)


def test_rounds_revise_revisions_and_samples_are_drawn_apart(home, tmp_path, asked):
    made = revised(home, tmp_path / "out", answers()[:1], rounds=2, samples=3)
    assert [prompts for prompts, _ in asked] == [["a1x?"] * 3, ["a1low!"] * 3, ["a2x?"] * 3, ["a2low!"] * 3]
    assert len({seed for _, seed in asked}) == 4
    assert record(made).counts["answers"] == 3 and record(made).metrics["reward_change"] == 1


def test_without_a_critique_the_revision_is_asked_for_at_once(home, tmp_path, asked):
    revised(home, tmp_path / "out", answers(), criticise=False, critique="", revision="{prompt}{answer}{principle}!")
    assert [prompts for prompts, _ in asked] == [["a1x!", "b2x!", "c1x!", "d3x!"]]


def test_principles_are_drawn_by_row_round_and_seed(home, tmp_path, asked):
    many = [row | {"problem_id": str(n)} for n in range(16) for row in answers()[:1]]
    for n, row in enumerate(many):
        row["prompt"] = f"a{n}"
    for number, seed in enumerate((0, 0, 1)):
        revised(home, tmp_path / str(number), many, principles=["x", "y"], seed=seed, rounds=2)
    principles = ["".join(prompt[-2] for prompt in prompts) for prompts, _ in asked if prompts[0].endswith("?")]
    assert principles[:2] == principles[2:4] and len(set(principles)) == 4
    assert all(set(drawn) == {"x", "y"} for drawn in principles)


def test_conversations_are_asked_about_in_one_message(home, tmp_path, asked):
    made = revised(home, tmp_path / "out", chat(answers()))
    assert asked[0][0][0] == [{"role": "user", "content": "a1x?"}]
    assert read_trajectories(made)[0]["completion"] == [{"role": "assistant", "content": "2"}]


def test_an_answer_that_looks_like_a_field_stays_what_it_is(home, tmp_path, asked):
    revised(home, tmp_path / "out", [{"prompt": "a", "completion": "{critique}{prompt}"}])
    assert asked[1][0] == ["a{critique}{prompt}low!"]


def test_rows_without_verifier_are_revised_and_not_scored(home, tmp_path, asked):
    made = revised(home, tmp_path / "out", [{"prompt": "a", "completion": "1"}])
    assert record(made).metrics == {} and "verifiers" not in record(made).facts
    assert [row["completion"] for row in read_trajectories(made)] == ["2"]


def test_problems_are_what_is_resampled():
    """Eight answers of one problem are no more evidence than one."""
    first = [{"prompt": "a", "reward": 0.0}] * 8 + [{"prompt": name, "reward": 0.0} for name in "bcdefg"]
    rows = [{"reward": 1.0}] * 8 + [{"reward": 0.0}] * 6
    metrics = change_metrics(first, rows, 0)
    assert metrics["reward_after"] == pytest.approx(1 / 7)
    assert metrics["reward_change_low"] == 0 and metrics["improved_share"] == pytest.approx(8 / 14)


SETTINGS = [
    ({"critique": "{prompt}"}, "critique does not show {answer}"),
    ({"revision": "{prompt}{critique}"}, "revision does not show {answer}"),
    ({"revision": "{answer}"}, "revision and {critique} do not agree; add the field"),
    ({"criticise": False, "revision": "{answer}{critique}"}, "leave the field out: criticise=False"),
    ({"criticise": False, "critique": "{answer}"}, "drop one of them"),
    ({"critique": "{answer}{critique}"}, "not there yet"),
    ({"critique": "{answer}{principal}"}, "unknown field {principal}; did you mean 'principle'"),
    ({"critique": "{answer}", "revision": "{answer}{critique}", "principles": ["x"]}, "no request shows {principle}"),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
def test_requests_that_ask_about_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError) as caught:
        stage.check_settings(stage.ReviseSettings(**settings))
    assert message in str(caught.value)
    stage.check_settings(stage.ReviseSettings())
    stage.check_settings(stage.ReviseSettings(criticise=False))


def test_what_cannot_be_revised_is_refused(home, tmp_path):
    def no(rows: list[Row], settings: dict[str, Any], error: type[Exception], *mentions: str) -> None:
        number = len(list(tmp_path.iterdir()))
        given = prepared(tmp_path / f"rows-{number}", rows, "trajectories")
        parents = {"policy": [home / "policy"], "trajectories": [given]}
        refused("revise", parents, BRIEF | settings, tmp_path / f"out-{number}", error, *mentions)

    plain = [{"prompt": "a", "completion": "1"}]
    no([{"messages": chat(plain)[0]["prompt"]}], {}, ContractError, "'messages'", "prompt-completion")
    no(
        [*answers(), {"prompt": "e", "completion": "1"}],
        {"keep_better": True},
        ContractError,
        "row 5 names no verifier",
    )
    no(plain, {"max_new_tokens": 126}, ContractError, "row 1", "context")
    # 128 tokens hold a prompt with critique and revision, but not with a first revision as well.
    no(plain, {"max_new_tokens": 50, "rounds": 2, "principles": ["x"]}, ContractError, "row 1", "150 new tokens")
    at_once = {"criticise": False, "critique": "", "revision": "{prompt}{answer}{principle}!"}
    no(plain, at_once | {"max_new_tokens": 110, "principles": ["x", 20 * "y"]}, ContractError, "row 1", "context")
    twice = chat(plain)[0]
    no([twice | {"completion": 2 * twice["completion"]}], {}, ContractError, "an answer of several messages")
    no([{**plain[0], "verifier": "exakt"}], {}, VerifierError, "did you mean 'exact'")


def test_nothing_kept_is_an_error(home, tmp_path, asked):
    with pytest.raises(DataError, match="none of 1 revisions is kept"):
        revised(home, tmp_path / "out", answers()[1:2], keep_better=True)
