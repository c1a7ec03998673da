"""The world of chained steps is what it says: known answers, disjoint sets, a base that slips on large digits."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

from posttrain.generation.decoding import Decoding
from posttrain.generation.transformers import load_policy, sample
from posttrain.verifiers import verify
from posttrain.worlds import chains


def test_answers_are_right_and_slips_are_not() -> None:
    assert chains.row((6, 2, 8)) == {
        "id": "chain-6,2,8=",
        "prompt": "6,2,8=",
        "verifier": "exact",
        "reference": "7;3;9",
    }
    assert chains.answer((6, 2, 8), lambda: True) == "6;3;8"
    assert verify("6;3;8", "exact", "7;3;9").score == 0
    chance = random.Random(0)
    written = Counter(chains.answer((4, 0), lambda: chance.random() >= 0.4) for _ in range(1000))
    assert set(written) == {"5;1", "4;1"}
    assert 350 < written["5;1"] < 450


def test_what_is_built(tmp_path: Path) -> None:
    world = chains.Chains(length=2, train=12, held_out=6, steps=60)
    chains.build(tmp_path / "one", world=world)
    rows, held_out = (
        [json.loads(line) for line in (tmp_path / "one" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("problems", "held_out")
    )
    assert (len(rows), len(held_out)) == (12, 6)
    assert len({row["id"] for row in rows + held_out}) == 18
    policy = load_policy(tmp_path / "one" / "base")
    [drawn] = sample(*policy, ["4,4="], Decoding(samples=64, max_new_tokens=6))
    assert {completion.text for completion in drawn} >= {"4;4", "4;5", "5;4", "5;5"}
    chains.build(tmp_path / "again", world=world)
    files = ("base/model.safetensors", "problems.jsonl")
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "again" / f).read_bytes() for f in files)
