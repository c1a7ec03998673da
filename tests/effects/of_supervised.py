"""Supervised fine-tuning."""

from __future__ import annotations

from pathlib import Path

from tests.effects.effect import Measured, effect
from tests.effects.policies import exactly
from tests.training.jobs import SUMS, answered, base, prepared, record, run


@effect("sft", "greedy answers that are as demonstrated", margin=0.9)
def sft_teaches_what_is_demonstrated(home: Path, seed: int) -> Measured:
    demos = answered(SUMS)
    init = base(home / "init", "llama", seed=seed)
    data = prepared(home / "data", demos, "trajectories")
    settings = {"max_steps": 60, "batch_size": 16, "learning_rate": 1e-2, "seed": seed}
    trained = run("sft", home / "sft", settings, init=init, data=data)
    return Measured(exactly(init, demos), exactly(trained, demos), record(trained))
