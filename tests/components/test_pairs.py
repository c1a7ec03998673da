"""Pairs: which answers are put beside each other, and what is counted where none can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from posttrain.components.catalogue import load_stage
from posttrain.components.pairs.pairing import ranked_pairs

from posttrain.artifacts.record import Record
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ConfigError, ContractError, DataError
from posttrain.stage import execute
from tests.made import based, demo, prepared, problem, refused, rolled_out
from tests.tiny import tiny_policy
from tests.training.jobs import record, run

Row = dict[str, Any]


def answer(number: int, text: str, reward: float | None, **more: Any) -> Row:
    own = {"problem_id": f"p{number}", "slice": "sums", "verifier": "exact", "reference": str(number + 1)}
    return demo(number, completion=text, reward=reward, sampler="s" * 64, **own, **more)


# Problem 1: mixed; 2: all right; 3: one that cannot be scored beside a right one; 4: one answer, given twice.
ROWS = [
    *(answer(1, text, float(text == "2")) for text in ("2", "3", "4")),
    *(answer(2, text, 1.0) for text in ("3", "3.0")),
    answer(3, "four?", None),
    answer(3, "4", 1.0),
    answer(4, "5", 1.0),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sampler and its problems, for `rolled_out`."""
    home = tmp_path_factory.mktemp("home")
    based(home / "policy", tiny_policy(home / "model", "gpt2"))
    prepared(home / "problems", [problem(1)])
    return home


def paired(home: Path, out: Path, rows: list[Row], **settings: Any) -> tuple[Record, list[Row]]:
    source = rolled_out(out.with_name("scored"), home / "policy", home / "problems", rows)
    return execute(load_stage("pairs"), {"trajectories": [source]}, settings, out), read_trajectories(out)


def test_a_right_answer_is_put_before_a_wrong_one_and_the_rest_is_counted(home: Path, tmp_path: Path) -> None:
    duplicate = answer(1, "2", 1.0, finish="length")
    record, rows = paired(home, tmp_path / "pairs", [*ROWS, duplicate], max_pairs_per_problem=0)
    assert record.counts == {
        "trajectories": 9,
        "unscorable": 1,
        "duplicates": 1,
        "problems": 4,
        "no_contrast": 3,
        "pairs": 1,
        "unfinished": 0,
    }
    assert (record.metrics["paired_share"], record.metrics["mean_margin"]) == (0.25, 1.0)
    assert (record.facts["shape"], record.trace, record.method) == ("preference", None, "best_worst")
    assert len(rows) == 1
    pair = rows[0]
    assert (pair["prompt"], pair["chosen"], pair["rejected"] in ("3", "4")) == ("1+1=", "2", True)
    assert (pair["chosen_reward"], pair["rejected_reward"]) == (1.0, 0.0)
    assert (pair["sampler"], pair["problem_id"], pair["reference"], pair["slice"]) == ("s" * 64, "p1", "2", "sums")
    assert "chosen_sampler" not in pair


def test_answers_of_two_samplers_name_both(home: Path, tmp_path: Path) -> None:
    _, (pair,) = paired(home, tmp_path / "pairs", [answer(1, "2", 1.0), answer(1, "3", 0.0) | {"sampler": "t" * 64}])
    assert (pair["chosen_sampler"], pair["rejected_sampler"]) == ("s" * 64, "t" * 64)
    assert "sampler" not in pair


RANKED = [answer(1, str(rank), rank / 4) for rank in range(5)]


def margins(rows: list[Row], **settings: Any) -> list[float]:
    found = ranked_pairs(rows, **{"problem": "p1", "seed": 0, **settings})
    return [better["reward"] - worse["reward"] for better, worse in found]


def test_each_method_pairs_in_its_own_order() -> None:
    assert margins(RANKED, method="best_worst") == [1.0, 0.5]
    assert margins(RANKED, method="margin") == [1.0, 0.75, 0.75, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    drawn = margins(RANKED, method="random")
    assert sorted(drawn, reverse=True) == margins(RANKED, method="margin") != drawn
    assert drawn == margins(RANKED, method="random") != margins(RANKED, method="random", seed=1)


@pytest.mark.parametrize("method", ["best_worst", "margin", "random"])
def test_small_margins_and_many_pairs_are_left_out(method: str) -> None:
    found = margins(RANKED, method=method, min_margin=0.6)
    assert found
    assert min(found) >= 0.6
    assert margins([answer(1, str(n), 1.0) for n in range(5)], method=method) == []


def test_best_against_worst_uses_no_answer_twice() -> None:
    rows = [answer(1, str(n), float(n % 2)) for n in range(20)]
    pairs = ranked_pairs(rows, "best_worst", "p1", seed=0)
    assert len(pairs) == 10
    assert len({row["completion"] for pair in pairs for row in pair}) == 20


def test_no_contrast_at_all_and_no_rewards_are_refused(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "x" / "out"
    alike = {"trajectories": [rolled_out(tmp_path / "alike", home / "policy", home / "problems", ROWS[3:])]}
    refused("pairs", alike, {}, out, DataError, "in none of 3 problems", "4 scored answers", "sample more")
    plain = {"trajectories": [prepared(tmp_path / "plain", [demo(1)], "trajectories")]}
    refused("pairs", plain, {}, out, ContractError, "no rewards", "verify first")
    whole = {"trajectories": [rolled_out(tmp_path / "whole", home / "policy", home / "problems", ROWS)]}
    refused("pairs", whole, {"method": "delta"}, out, ContractError, "needs a parent 'weaker'")
    refused("pairs", whole, {"max_distance": 1.0}, out, ContractError, "without a parent 'learner'")
    refused("pairs", whole | {"weaker": whole["trajectories"]}, {}, out, ContractError, "choose method=delta")
    alone = whole | {"weaker": whole["trajectories"]}
    refused("pairs", alone, {"method": "delta"}, out, ContractError, "sampled both trajectories and weaker")
    refused("pairs", alone, {"method": "delta", "min_margin": 0.5}, out, ConfigError, "which scores nothing")
    text = {"trajectories": [prepared(tmp_path / "text", [{"text": "2"}], "trajectories")]}
    refused("pairs", text, {}, out, ContractError, "shape 'text'")


def test_a_stronger_samplers_answers_are_put_before_a_weaker_ones(home: Path, tmp_path: Path) -> None:
    rows = [answer(n, text, None) for n in (1, 2) for text in ("2", "3")]
    weak = [answer(1, "2", None) | {"sampler": "w" * 64}, answer(1, "9", None) | {"sampler": "w" * 64}]
    strong, weaker = (
        rolled_out(tmp_path / name, home / "policy", home / "problems", given)
        for name, given in (("strong", rows), ("weak", weak))
    )
    made = execute(
        load_stage("pairs"),
        {"trajectories": [strong], "weaker": [weaker]},
        {"method": "delta", "max_pairs_per_problem": 0},
        tmp_path / "pairs",
    )
    (pair,) = read_trajectories(tmp_path / "pairs")
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ("1+1=", "3", "9"), "2 was an answer of both"
    assert (pair["chosen_sampler"], pair["rejected_sampler"]) == ("s" * 64, "w" * 64)
    assert (made.method, made.facts["ranked_by"], made.counts["no_contrast"]) == ("delta", "sampler", 1)


def test_a_reward_model_ranks_answers_that_no_verifier_scored(home: Path, tmp_path: Path) -> None:
    liked = [{"prompt": f"{n}+1=", "chosen": "1", "rejected": "9"} for n in range(8)]
    data = prepared(tmp_path / "liked", liked, "trajectories")
    settings = {"max_steps": 20, "batch_size": 8, "learning_rate": 1e-2, "held_out": 0.0}
    judge = run("reward_model", tmp_path / "judge", settings, init=home / "policy", data=data)
    rows = [answer(n, text, None) for n in range(6) for text in ("9", "1")]
    source = rolled_out(tmp_path / "unscored", home / "policy", home / "problems", rows)
    made = record(run("pairs", tmp_path / "pairs", {}, trajectories=source, reward_model=judge))
    pairs = read_trajectories(tmp_path / "pairs")
    assert [pair["chosen"] for pair in pairs] == ["1"] * 6
    assert all(pair["chosen_score"] > pair["rejected_score"] for pair in pairs)
    assert made.facts["ranked_by"] == "score"


def test_pairs_say_how_far_the_learner_is_from_their_sampler(home: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}=", "verifier": "exact", "reference": [*"0123456789abcdef"]} for n in range(8)]
    problems = prepared(tmp_path / "problems", rows)
    sampled = run(
        "rollout", tmp_path / "own", {"samples": 32, "max_new_tokens": 1}, policy=home / "policy", problems=problems
    )
    scored = run("verify", tmp_path / "scored", {}, trajectories=sampled)
    other = based(tmp_path / "other", tiny_policy(tmp_path / "another", "gpt2", seed=1))
    own, stale = (
        record(run("pairs", tmp_path / f"{policy.name}-pairs", {}, trajectories=scored, learner=policy))
        for policy in (home / "policy", other)
    )
    assert own.metrics["distance/kl"] == pytest.approx(0, abs=1e-6)
    assert (own.metrics["distance/own_share"], stale.metrics["distance/own_share"]) == (1, 0)
    assert own.metrics["distance/effective_share"] == pytest.approx(1, abs=1e-3)
    assert stale.metrics["distance/effective_share"] < 0.8
    assert stale.metrics["distance/kl_low"] > 0.1
    parents = {"trajectories": [scored], "learner": [other]}
    out = tmp_path / "x" / "out"
    refused("pairs", parents, {"max_distance": 0.1}, out, ContractError, "the pairs are stale", "iterative-dpo")
    supplied = rolled_out(tmp_path / "supplied", home / "policy", home / "problems", ROWS)
    unknown = {"trajectories": [supplied], "learner": [other]}
    refused(
        "pairs", unknown, {"max_distance": 0.1}, out, ContractError, "no answer has its sampler's log-probabilities"
    )
