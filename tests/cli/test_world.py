"""`posttrain world`: where it puts what it made."""

from __future__ import annotations

import pytest

from posttrain.worlds import chains
from tests.s3 import place, s3, s3_server

__all__ = ["place", "s3", "s3_server"]


@pytest.fixture
def built(monkeypatch):
    """A world that is made at once; the seeds of those that were."""
    seeds: list[int] = []

    def build(directory, seed, progress):
        seeds.append(seed)
        (directory / "base").mkdir(parents=True)
        (directory / "base/config.json").write_text("{}")
        (directory / "problems.jsonl").touch()

    monkeypatch.setattr(chains, "build", build)
    return seeds


def test_a_world_lies_where_it_is_wanted_and_is_made_once(posttrain, built, place):
    there = f"{place}/world"
    assert posttrain("world", "chains", "--out", there)[:2] == (0, f"{there}/base\n{there}/problems.jsonl\n")
    code, _, error = posttrain("world", "chains", "--out", there)
    assert code == 2
    assert error.startswith("error: ")
    assert there in error
    assert built == [0]
