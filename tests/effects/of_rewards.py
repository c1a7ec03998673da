"""Reward models: they judge answers that they were not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.components.reward_model.unseen import answers_of, scores_of

from posttrain.artifacts.trajectories import read_trajectories
from tests.effects.effect import Measured, effect
from tests.effects.of_preference import SEEN, UNSEEN
from tests.training.jobs import base, prepared, record, run


def judges(home: Path, seed: int, *settings: dict[str, Any], **weights: float) -> list[Path]:
    """Reward models of the same pairs, judged by answers to other problems."""
    init = base(home / "init", "llama", characters="0123456789=abcdefghij", seed=seed, **weights)
    answers = [
        {"prompt": row["prompt"], "completion": row[side], "reward": float(side == "chosen")}
        for row in UNSEEN
        for side in ("chosen", "rejected")
    ]
    data, verified = (
        prepared(home / "pairs", SEEN, "trajectories"),
        prepared(home / "verified", answers, "trajectories"),
    )
    common = {"max_steps": 30, "batch_size": 24, "learning_rate": 1e-2, "seed": seed}
    return [
        run("reward_model", home / f"judge-{number}", common | each, init=init, data=data, verified=verified)
        for number, each in enumerate(settings)
    ]


@effect("reward_model", "AUC within unseen problems", margin=0.25, against="chance")
def a_reward_model_judges_answers_that_it_has_not_seen(home: Path, seed: int) -> Measured:
    [judge] = judges(home, seed, {})
    return Measured(0.5, record(judge).metrics["unseen/auc"], record(judge))


@effect("reward_model", "distance of the mean unseen score from zero", margin=-0.3, against="not centred")
def centring_keeps_the_mean_score_near_zero_and_the_ranking(home: Path, seed: int) -> Measured:
    # Wide weights: what all answers have in common is scored far from zero, which no pair of them can mend.
    models = judges(home, seed, {}, {"center": 0.1}, initializer_range=0.3)
    unseen = answers_of(read_trajectories(home / "verified"))
    free, centred = (abs(float(scores_of(model, unseen).mean())) for model in models)
    auc = [record(model).metrics["unseen/auc"] for model in models]
    assert auc[1] >= auc[0] - 0.1, auc
    return Measured(free, centred, record(models[1]))
