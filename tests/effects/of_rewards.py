"""Reward models: they judge answers that they were not trained on."""

from __future__ import annotations

from pathlib import Path

from tests.effects.effect import Measured, effect
from tests.effects.of_preference import SEEN, UNSEEN
from tests.training.jobs import base, prepared, record, run


@effect("reward_model", "AUC within unseen problems", margin=0.25, against="chance")
def a_reward_model_judges_answers_that_it_has_not_seen(home: Path, seed: int) -> Measured:
    init = base(home / "init", "llama", characters="0123456789=abcdefghij", seed=seed)
    answers = [
        {"prompt": row["prompt"], "completion": row[side], "reward": float(side == "chosen")}
        for row in UNSEEN
        for side in ("chosen", "rejected")
    ]
    data, verified = (
        prepared(home / "pairs", SEEN, "trajectories"),
        prepared(home / "verified", answers, "trajectories"),
    )
    settings = {"max_steps": 30, "batch_size": 24, "learning_rate": 1e-2, "seed": seed}
    judge = record(run("reward_model", home / "judge", settings, init=init, data=data, verified=verified))
    return Measured(0.5, judge.metrics["unseen/auc"], judge)
