"""The study's scoring, on a tree made by hand: what a sequence is worth, the oracle, the loop's walk, regret."""

from __future__ import annotations

import pytest

from posttrain.worlds.bottlenecks import WORLDS as BUILT
from study.score import Tree, improved, oracle, relative, unrevised, worth_of_blind_oracle, worth_of_oracle
from study.worlds import FRESH, TUNED, UNSEEN, WORLDS, children

PROBLEMS, SAMPLES = 40, 64


def signal(value: float) -> list[float]:
    return [value, value - 0.01, value + 0.01]


def row(path: tuple[str, ...], pass_1: float, pass_k: float, before: tuple[float, float] = (0, 0), anchors: float = 0):
    """A policy of which `pass_k` of the problems are within reach, each at the same rate."""
    solved = round(PROBLEMS * pass_k)
    right = round(SAMPLES * pass_1 * PROBLEMS / solved) if solved else 0
    signals = {
        "pass_1": pass_1,
        "pass_k": pass_k,
        "headroom": pass_k - pass_1,
        "always_fail": 1 - pass_k,
        "informative": pass_k,
        "demo_surprising": 0.9,
        "demo_loss": 3.0,
    }
    if path:
        signals |= {"pass_1_change": pass_1 - before[0], "pass_k_change": pass_k - before[1], "gained": 0.0}
        signals |= {"anchor_change": anchors, "anchor_attrition": 0.0}
    counts = {
        "slice": ["all"] * PROBLEMS,
        "scored": [SAMPLES] * PROBLEMS,
        "correct": [right] * solved + [0] * (PROBLEMS - solved),
    }
    kept = {**counts, "correct": [round(SAMPLES * (0.5 + anchors))] * PROBLEMS}
    diagnosis = {
        "policy": "/".join(path) or "base",
        "policy_digest": "/".join(path) or "base",
        "parameters": 1000,
        "problems": PROBLEMS,
        "samples": SAMPLES,
        "k": 32,
        "tokens": 6.0,
        "inputs": ["demos", *(["original"] if path else [])],
        "signals": {"all": {name: signal(value) for name, value in signals.items()}},
        "informative": {"all": {"8": signal(0.9), "16": signal(0.95)}},
        "findings": {},
    }
    return {"path": list(path), "step_seconds": 1.0, "diagnosis": diagnosis, "exam": counts, "anchors": kept}


def tree(*rows):
    return Tree("made", 0, {tuple(entry["path"]): entry for entry in rows})


BASE = row((), 0.2, 0.5)


def test_a_sequence_that_loses_the_anchors_is_worth_what_the_base_is():
    made = tree(BASE, row(("rl",), 0.4, 0.5), row(("sft",), 0.4, 1.0, anchors=-0.2))
    assert made.worth(()) == pytest.approx((0.2 + 0.5) / 2, abs=0.01)
    assert made.worth(("rl",)) == pytest.approx((0.4 + 0.5) / 2, abs=0.01)
    assert made.worth(("sft",)) == made.worth(())
    assert oracle(made) == ("rl",)
    assert worth_of_blind_oracle(made) <= worth_of_oracle(made) + 0.02


def test_the_loop_undoes_what_did_not_pay_and_the_rules_alone_do_not():
    start = (0.2, 0.5)
    made = tree(
        BASE,
        row(("sft_replay",), 0.1, 0.3, start),
        row(("sft_replay", "rl"), 0.1, 0.2, (0.1, 0.3)),
        row(("rft",), 0.35, 0.5, start),
        row(("rft", "sft_replay"), 0.1, 0.5, (0.35, 0.5)),
        row(("rft", "rl"), 0.3, 0.3, (0.35, 0.5)),
    )
    found = improved(made)
    assert found.path == ("rft",)
    assert [turn.get("fate") for turn in found.said][:2] == ["rolled back", "kept"]
    assert unrevised(made)[0] == "sft_replay"


def test_a_step_that_loses_the_anchors_is_mended_or_given_up():
    start = (0.2, 0.5)
    lost = row(("sft_replay",), 0.3, 0.9, start, anchors=-0.1)
    mended = row(("sft_replay", "rft"), 0.35, 0.9, (0.3, 0.9))
    assert improved(tree(BASE, lost, mended)).path == ("sft_replay", "rft")
    still = row(("sft_replay", "rft"), 0.35, 0.9, (0.3, 0.9), anchors=-0.1)
    assert improved(tree(BASE, lost, still)).path == ()


def test_regret_is_a_share_of_what_could_be_gained():
    import numpy as np

    assert relative(np.array([0.1, 0.0]), np.array([0.4, 0.1])) == pytest.approx(0.2)
    assert relative(np.array([0.0]), np.array([0.0])) == 0


def test_every_world_of_the_study_can_be_built_and_is_in_one_group():
    assert set(WORLDS) == set(BUILT)
    assert len({*TUNED, *UNSEEN, *FRESH}) == len(TUNED) + len(UNSEEN) + len(FRESH)


def test_repairs_are_steps_where_there_are_anchors_and_never_the_first(tmp_path):
    for name in ("base", "anchors.jsonl", "demos.jsonl"):
        (tmp_path / name).write_text("")
    first = {path[-1] for path in children((), tmp_path)}
    assert {"restore", "merge"} & first == set()
    assert {"restore", "merge"} <= {path[-1] for path in children(("sft",), tmp_path)}
    assert ("rl", "rl") in children(("rl",), tmp_path) and ("sft", "sft") not in children(("sft",), tmp_path)
    assert children(("sft", "rl", "rl"), tmp_path) == []
