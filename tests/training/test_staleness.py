"""Staleness: as planned from a schedule, as counted by the mixin, and as TRL's trainers really have it."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.artifacts.provenance import online
from posttrain.errors import ConfigError
from posttrain.taxonomy import Provenance
from posttrain.training.online import enough_prompts, measuring, refuse_planned_staleness, trace_of
from posttrain.training.staleness import expected_staleness


class FakeTrainer:
    """TRL's schedule and nothing else: samples every so many forward passes, inside the pass that needs them."""

    def __init__(self, batches_per_sampling: int, accumulation: int, rows: int, processes: int = 1) -> None:
        self.args = SimpleNamespace(per_device_train_batch_size=rows, world_size=processes)
        self.state = SimpleNamespace(global_step=0)
        self._every, self._accumulation, self._pass = batches_per_sampling, accumulation, 0

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        return inputs

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> None:
        if self._pass % self._every == 0:
            self._generate_and_score_completions(inputs)
        self._pass += 1

    def train(self, steps: int) -> None:
        for _ in range(steps):
            for _ in range(self._accumulation):
                self.training_step(None, None)
            self.state.global_step += 1


def counted(batches_per_sampling: int, accumulation: int, rows: int, steps: int, processes: int = 1) -> Counter[int]:
    trainer = measuring(FakeTrainer)(batches_per_sampling, accumulation, rows, processes)
    trainer.train(steps)
    return trainer.staleness


def test_a_sampling_a_step_is_never_stale() -> None:
    assert counted(1, 1, rows=4, steps=3) == {0: 12}
    assert counted(4, 4, rows=2, steps=3) == {0: 24}, "accumulated passes belong to one step"
    assert counted(1, 4, rows=2, steps=3) == {0: 24}, "several samplings within one step"


def test_reuse_is_counted_by_age() -> None:
    assert counted(2, 1, rows=4, steps=4) == {0: 8, 1: 8}
    assert counted(4, 2, rows=3, steps=4) == {0: 12, 1: 12}
    assert counted(3, 2, rows=1, steps=6) == {0: 6, 1: 6}, "a sampling that begins in the middle of a step"
    assert counted(2, 1, rows=4, steps=4, processes=3) == {0: 24, 1: 24}


@pytest.mark.parametrize("accumulation", range(1, 7))
@pytest.mark.parametrize("batches", range(1, 13))
def test_the_plan_is_what_a_long_run_comes_to(batches: int, accumulation: int) -> None:
    assert expected_staleness(batches, accumulation) == max(counted(batches, accumulation, rows=1, steps=60))


def test_the_bound_decides() -> None:
    assert online({0: 6, 1: 2}, "me", bound=1).provenance is Provenance.ON_POLICY
    mixed = online({0: 6, 1: 2}, "me", bound=0)
    assert (mixed.provenance, mixed.on_policy_fraction, mixed.self_generated_fraction) == ("mixed", 0.75, 1.0)
    refuse_planned_staleness(1, 1, "")
    refuse_planned_staleness(1, 0, "mixed")
    with pytest.raises(ConfigError, match="accept_provenance=mixed"):
        refuse_planned_staleness(1, 0, "off-policy")


def test_a_trainer_that_never_stepped_is_not_on_policy() -> None:
    trace = trace_of(object(), "me", 0)
    assert (trace.rows, trace.provenance, trace.on_policy_fraction) == (0, "mixed", 0.0)
    with pytest.raises(ConfigError, match="a step takes 4 different problems, but there are 3"):
        enough_prompts(3, 4)
