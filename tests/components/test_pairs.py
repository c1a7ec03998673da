"""Pairs: which answers are put beside each other, and what is counted where none can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from posttrain.components.catalogue import load_stage
from posttrain.components.pairs.stage import PairsSettings, paired_answers

from posttrain.artifacts.record import Record
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ContractError, DataError
from posttrain.stage import execute
from tests.made import based, demo, prepared, problem, refused, rolled_out
from tests.tiny import tiny_policy

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
    found = paired_answers(rows, PairsSettings(max_pairs_per_problem=0, **settings), "p1")
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
    settings = PairsSettings(method=method, max_pairs_per_problem=1)  # type: ignore[arg-type]
    assert len(paired_answers(RANKED, settings, "p1")) == 1
    assert margins([answer(1, str(n), 1.0) for n in range(5)], method=method) == []


def test_best_against_worst_uses_no_answer_twice() -> None:
    rows = [answer(1, str(n), float(n % 2)) for n in range(20)]
    pairs = paired_answers(rows, PairsSettings(max_pairs_per_problem=0), "p1")
    assert len(pairs) == 10
    assert len({row["completion"] for pair in pairs for row in pair}) == 20


def test_no_contrast_at_all_and_no_rewards_are_refused(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "x" / "out"
    alike = {"trajectories": [rolled_out(tmp_path / "alike", home / "policy", home / "problems", ROWS[3:])]}
    refused("pairs", alike, {}, out, DataError, "in none of 3 problems", "4 scored answers", "sample more")
    plain = {"trajectories": [prepared(tmp_path / "plain", [demo(1)], "trajectories")]}
    refused("pairs", plain, {}, out, ContractError, "no rewards", "verify first")
    text = {"trajectories": [prepared(tmp_path / "text", [{"text": "2"}], "trajectories")]}
    refused("pairs", text, {}, out, ContractError, "shape 'text'")
