"""Stages that count, draw or measure for themselves: two processes do and report what one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.training.launch import start
from tests.training.jobs import SUMS, answered, base, prepared, record, run, weights

STEPS: dict[str, Any] = {"max_steps": 3, "logging_steps": 1, "seed": 3}


def both_ways(stage: str, home: Path, settings: dict[str, Any], batch: int, **parents: Path) -> tuple[Path, Path]:
    """The stage in one process, and in two at the same global batch; both reported the same."""
    alone = run(stage, home / "alone", STEPS | settings | {"batch_size": batch}, **parents)
    both = run(stage, home / "both", STEPS | settings | {"batch_size": batch // 2, "processes": 2}, **parents)
    one, two = record(alone), record(both)
    assert (one.facts["processes"], two.facts["processes"]) == (1, 2)
    assert one.facts["global_batch"] == two.facts["global_batch"] == batch
    assert two.environment.versions.keys() >= {"torch", "transformers", "trl"}
    assert (one.trace, one.counts) == (two.trace, two.counts)
    assert one.curves.keys() == two.curves.keys()
    for name, points in one.curves.items():
        assert [value for _, value in two.curves[name]] == pytest.approx([value for _, value in points], abs=1e-3), name
    assert two.metrics == pytest.approx(one.metrics, abs=1e-3)
    return alone, both


def same(alone: Path, both: Path, init: Path) -> None:
    """The weights went the same way."""
    before, mine, theirs = weights(init), weights(alone), weights(both)
    moved = max(float((mine[name] - before[name]).abs().max()) for name in mine)
    assert moved > 0
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 1e-2 * moved


def test_rl_with_all_its_mixins(tmp_path: Path) -> None:
    """Rollouts are greedy, so that processes sample alike: a group has no contrast, and all are drawn anew once."""
    init = base(tmp_path / "init", "llama")
    problems = prepared(tmp_path / "problems", SUMS, "problems")
    said = [row | {"completion": row["completion"] + " it is"} for row in answered(SUMS)]
    hints = prepared(tmp_path / "hints", said, "trajectories")
    settings = {"method": "reinforce_pp", "kl": 0.05, "group_size": 2, "max_new_tokens": 4, "learning_rate": 1e-3}
    settings |= {"trainer_args": {"top_k": 1}, "dynamic_sampling": "always", "max_resampling": 1}
    settings |= {"rewards": {"format": 1.0, "verifier": 0.5}, "format_pattern": ".*[a-mA-M]"}
    alone, both = both_ways("rl", tmp_path, settings, 16, init=init, problems=problems, hints=hints)
    counts = record(both).counts
    assert counts["rollouts"] == 2 * counts["discarded_rollouts"] == 2 * 3 * 16
    assert 0 < counts["hinted_rollouts"] < counts["rollouts"]
    same(alone, both, init)


def test_sft_that_measures_what_it_wrote(tmp_path: Path) -> None:
    init = base(tmp_path / "init", "llama")
    data = prepared(tmp_path / "data", answered(SUMS), "trajectories")
    anchors = prepared(tmp_path / "anchors", [row | {"reference": [*"0123456789"]} for row in SUMS], "problems")
    settings = {"method": "anchored", "anchor_tokens": 1, "anchor_samples": 4, "learning_rate": 1e-2}
    alone, both = both_ways("sft", tmp_path, settings, 8, init=init, data=data, anchors=anchors)
    assert record(both).metrics["anchors/pass_at_1_before"] > 0
    same(alone, both, init)


TOGETHER = """
import os, sys, time, torch
import torch.distributed as group
from collections import Counter
from pathlib import Path
from accelerate import Accelerator
from posttrain.training.ranks import mean_of_all, summed, wait_for_main

accelerator, rank = Accelerator(cpu=True), int(os.environ["RANK"])
mine = Counter(rows=3 + rank, unscorable=0)
assert summed(mine) == {"rows": 7, "unscorable": 0}
assert float(mean_of_all(accelerator, [1.0, 2.0] if rank else [])) == 1.5
assert float(mean_of_all(accelerator, [])) == 0
folder = Path(sys.argv[1])
if rank == 0:
    time.sleep(1)
    (folder / "written").touch()
wait_for_main()
assert (folder / "written").exists()
group.destroy_process_group()
(folder / str(rank)).touch()
"""


def test_what_each_process_knows_is_put_together(tmp_path: Path) -> None:
    start(2, ["-c", TOGETHER, str(tmp_path)], tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"0", "1", "written"}
