"""How verified scores changed from first answers to revisions: paired, and resampled by problem."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from posttrain.artifacts.digests import digest_value
from posttrain.artifacts.rows import Row
from posttrain.diagnosis.intervals import paired_difference


def change_metrics(first: Sequence[Row], rows: Sequence[Row], seed: int) -> dict[str, float]:
    """Mean scores before and after, and the 95% interval of the change; empty where nothing could be scored twice.

    Answers of one problem are no independent evidence, so problems are the units: each counts once.
    """
    scored = defaultdict[str, list[tuple[float, float]]](list)
    for before, after in zip(first, rows, strict=True):
        if before.get("reward") is not None and after["reward"] is not None:
            problem = digest_value([before.get("problem_id"), before["prompt"]])
            scored[problem].append((before["reward"], after["reward"]))
    if not scored:
        return {}
    means_MK = np.array([np.mean(pairs, axis=0) for pairs in scored.values()])
    change = paired_difference(means_MK[:, :1], means_MK[:, 1:], seed)[0]
    both = [pair for pairs in scored.values() for pair in pairs]
    return {
        "reward_before": float(means_MK[:, 0].mean()),
        "reward_after": float(means_MK[:, 1].mean()),
        "reward_change": change.estimate,
        "reward_change_low": change.low,
        "reward_change_high": change.high,
        "improved_share": sum(after > before for before, after in both) / len(both),
        "worsened_share": sum(after < before for before, after in both) / len(both),
    }
