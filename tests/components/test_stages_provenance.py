"""What a training stage says it learned from is what it learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.artifacts.provenance import Trace
from posttrain.errors import ConfigError, ProvenanceError
from posttrain.training import online
from tests.training.jobs import BRIEF, SUMS, answered, base, prepared, record, run

DIGITS = [{"prompt": row["prompt"], "verifier": "exact", "reference": [*"0123456789"]} for row in SUMS]
RL: dict[str, Any] = BRIEF | {"group_size": 4, "max_new_tokens": 1}
SEQUENCE = BRIEF | {"method": "sequence_distillation"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("parents")
    init, teacher = (base(home / name, "llama", seed=seed) for name, seed in (("init", 0), ("teacher", 1)))
    problems = prepared(home / "problems", DIGITS, "problems")
    demos = prepared(home / "demos", answered(SUMS), "trajectories")
    sampling = {"samples": 32, "max_new_tokens": 1}
    own, teachers = (
        run("rollout", home / f"rollouts-{policy.name}", sampling, policy=policy, problems=problems)
        for policy in (init, teacher)
    )
    filtered = run("verify", home / "filtered", {"min_reward": 1.0}, trajectories=own)
    return locals() | {"rollouts-init": own, "rollouts-teacher": teachers}


def trace(artifact: Path) -> Trace:
    found = record(artifact).trace
    assert found is not None
    return found


def test_own_filtered_samples_are_self_generated_but_off_policy(tmp_path: Path, made: dict[str, Path]) -> None:
    found = trace(run("sft", tmp_path / "sft", BRIEF, init=made["init"], data=made["filtered"]))
    assert 0 < record(made["filtered"]).counts["kept"] < record(made["filtered"]).counts["trajectories"]
    assert (found.provenance, found.self_generated_fraction, found.on_policy_fraction) == ("off-policy", 1.0, 0.0)
    assert found.samplers == {record(made["init"]).digest: found.rows}


def test_demonstrations_have_no_known_sampler(tmp_path: Path, made: dict[str, Path]) -> None:
    found = trace(run("sft", tmp_path / "sft", BRIEF, init=made["init"], data=made["demos"]))
    assert (found.provenance, found.self_generated_fraction, found.on_policy_fraction) == ("off-policy", 0.0, 0.0)
    assert found.samplers == {"": len(SUMS)}


def test_another_policys_samples_are_not_self_generated(tmp_path: Path, made: dict[str, Path]) -> None:
    found = trace(run("sft", tmp_path / "sft", BRIEF, init=made["init"], data=made["rollouts-teacher"]))
    assert (found.self_generated_fraction, found.samplers) == (0.0, {record(made["teacher"]).digest: 32 * len(SUMS)})


@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 1), (4, 2), (2, 4)])
def test_rl_is_on_policy_by_default(tmp_path: Path, made: dict[str, Path], batch_size: int, accumulation: int) -> None:
    settings = RL | {"max_steps": 3, "batch_size": batch_size, "accumulation": accumulation}
    found = trace(run("rl", tmp_path / "rl", settings, init=made["init"], problems=made["problems"]))
    rows = 3 * batch_size * accumulation
    assert (found.provenance, found.on_policy_fraction, found.self_generated_fraction) == ("on-policy", 1.0, 1.0)
    assert (found.staleness, found.rows) == ({0: rows}, rows)


@pytest.mark.parametrize(
    ("trainer_args", "batch_size", "accumulation", "staleness"),
    [
        ({"num_iterations": 2}, 4, 1, {0: 8, 1: 8}),
        ({"num_iterations": 2}, 2, 2, {0: 8, 1: 8}),
        ({"steps_per_generation": 4}, 2, 2, {0: 8, 1: 8}),
        ({"steps_per_generation": 2, "num_iterations": 2}, 4, 1, {0: 4, 1: 4, 2: 4, 3: 4}),
        ({"steps_per_generation": 2}, 2, 3, {0: 20, 1: 4}),
    ],
)
def test_reuse_is_refused_until_it_is_accepted(
    tmp_path: Path,
    made: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    trainer_args: dict[str, int],
    batch_size: int,
    accumulation: int,
    staleness: dict[int, int],
) -> None:
    settings = RL | {
        "max_steps": 4,
        "batch_size": batch_size,
        "accumulation": accumulation,
        "group_size": 2,
        "trainer_args": trainer_args,
    }
    parents = {"init": made["init"], "problems": made["problems"]}
    with monkeypatch.context() as patch:
        patch.setattr(online, "measuring", lambda trainer: pytest.fail("training was about to begin"))
        with pytest.raises(ConfigError, match="accept_provenance=mixed"):
            run("rl", tmp_path / "rl", settings, **parents)
    assert not (tmp_path / "rl").exists()
    found = trace(run("rl", tmp_path / "rl", settings | {"accept_provenance": "mixed"}, **parents))
    assert (found.provenance, found.staleness) == ("mixed", staleness)
    assert found.on_policy_fraction == staleness[0] / found.rows
    assert found.self_generated_fraction == 1.0
    bounded = run("rl", tmp_path / "bounded", settings | {"max_staleness": max(staleness)}, **parents)
    assert trace(bounded).provenance == "on-policy"


def test_on_policy_distillation_counts_its_rows(tmp_path: Path, made: dict[str, Path]) -> None:
    settings = BRIEF | {"max_steps": 3, "batch_size": 2, "accumulation": 2, "max_new_tokens": 4}
    parents = {"init": made["init"], "teacher": made["teacher"], "problems": made["problems"]}
    found = trace(run("distill", tmp_path / "student", settings, **parents))
    assert (found.provenance, found.staleness, found.rows) == ("on-policy", {0: 12}, 12)


def test_sequence_distillation_wants_the_teachers_rows(tmp_path: Path, made: dict[str, Path]) -> None:
    parents = {"init": made["init"], "teacher": made["teacher"]}
    taught = run("distill", tmp_path / "taught", SEQUENCE, **parents, data=made["rollouts-teacher"])
    assert trace(taught).samplers == {record(made["teacher"]).digest: 32 * len(SUMS)}
    counts, sampled = record(taught).counts, record(made["rollouts-teacher"]).counts
    assert counts["unfinished"] == sampled["truncated"] > 0
    for other in ("rollouts-init", "demos"):
        with pytest.raises(ProvenanceError, match="were not sampled by the teacher"):
            run("distill", tmp_path / other, SEQUENCE, **parents, data=made[other])
    accepted = SEQUENCE | {"accept_provenance": "off-policy"}
    found = trace(run("distill", tmp_path / "accepted", accepted, **parents, data=made["rollouts-init"]))
    assert found.self_generated_fraction == 1.0
