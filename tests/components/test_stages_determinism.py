"""The same parents, settings and seed give the same artifact, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.jobs import BRIEF, HELD_OUT, SUMS, answered, base, prepared, record, run

SAMPLING = {"samples": 4, "max_new_tokens": 4}
REVISE = {"max_new_tokens": 4, "critique": "{answer}?", "revision": "{answer}{critique}!"}
ONLINE = BRIEF | {"max_new_tokens": 4}
RL = BRIEF | {"batch_size": 16, "group_size": 4, "max_new_tokens": 1}
DIGITS = [{"prompt": row["prompt"], "verifier": "exact", "reference": [*"0123456789"]} for row in SUMS]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Parents that the stages below are run on."""
    home = tmp_path_factory.mktemp("parents")
    init, teacher = (base(home / name, "llama", seed=seed) for name, seed in (("init", 0), ("teacher", 1)))
    problems = prepared(home / "problems", DIGITS, "problems")
    held_out = prepared(home / "held_out", HELD_OUT, "problems")
    rollouts = run("rollout", home / "rollouts", SAMPLING, policy=teacher, problems=problems)
    evaluations = [
        run("evaluate", home / f"evaluation-{policy.name}", SAMPLING, policy=policy, problems=held_out)
        for policy in (init, teacher)
    ]
    demos = prepared(home / "demos", answered(SUMS), "trajectories")
    return locals() | {"before": evaluations[0], "after": evaluations[1]}


# stage → settings, parents, and whether another seed must give something else.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, str], bool]] = {
    "rollout": ("rollout", SAMPLING, {"policy": "init", "problems": "problems"}, True),
    "verify": ("verify", {}, {"trajectories": "rollouts"}, False),
    "revise": ("revise", REVISE, {"policy": "init", "trajectories": "rollouts"}, True),
    "sft": ("sft", BRIEF, {"init": "init", "data": "demos"}, True),
    "rl": (
        "rl",
        RL,
        {"init": "init", "problems": "problems"},
        True,
    ),
    "student": ("student", {"max_ratio": 1, "layers": 1}, {"teacher": "teacher"}, False),
    "on-policy": ("distill", ONLINE, {"init": "init", "teacher": "teacher", "problems": "problems"}, True),
    "sequence": (
        "distill",
        BRIEF | {"method": "sequence_distillation"},
        {"init": "init", "teacher": "teacher", "data": "rollouts"},
        True,
    ),
    "evaluate": ("evaluate", SAMPLING, {"policy": "init", "problems": "held_out"}, True),
    "gate": ("gate", {}, {"candidate": "after", "champion": "before"}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_stage_repeats_itself(tmp_path: Path, made: dict[str, Path], case: str) -> None:
    stage, settings, roles, drawn = CASES[case]
    parents = {role: made[name] for role, name in roles.items()}
    digests = [
        record(run(stage, tmp_path / f"{number}", settings | {"seed": seed}, **parents)).digest
        for number, seed in enumerate((3, 3, 4))
    ]
    assert digests[0] == digests[1]
    assert not drawn or digests[0] != digests[2]


def test_prepare_repeats_itself(tmp_path: Path, made: dict[str, Path]) -> None:
    digests = [
        record(prepared(tmp_path / f"{number}", SUMS, "problems", limit=8, seed=seed)).digest
        for number, seed in enumerate((3, 3, 4))
    ]
    assert digests[0] == digests[1] != digests[2]
