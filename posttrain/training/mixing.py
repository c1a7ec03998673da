"""GKD: some batches are the student's own rollouts, the others fixed completions (2306.13649, algorithm 1).

TRL keeps GKD in `trl.experimental`, on a trainer of its own. This mixin gives its mixture to the stable trainer, so a
share of 1 is on-policy distillation, bit for bit, and everything else of that trainer holds too.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

# Columns of the data set: a row's fixed tokens, where its completion starts, and who sampled it ('' = unknown).
IDS, START, SAMPLER = "fixed_ids", "fixed_start", "fixed_sampler"


class MixesFixed:
    """Mixin for `trl.DistillationTrainer` whose staleness is measured: `on_policy_share` of its batches are sampled.

    The paper tosses a coin a batch. Here sampled batches are spread evenly, so that the share is exact from the first
    steps on, and no random number is drawn that the on-policy trainer would not draw.
    `fixed` counts the fixed trajectories that were trained on by who sampled them.
    """

    fixed: Counter[str]
    KEPT = ("fixed", "_batches", "_given")

    def __init__(self, *args: Any, on_policy_share: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fixed = Counter()
        self._share, self._batches = on_policy_share, 0
        self._given: list[dict[str, Any]] = []  # the batch's rows, when it is a fixed one

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        from accelerate.utils import gather_object

        sampled = sampled_by(self._batches + 1, self._share) > sampled_by(self._batches, self._share)
        self._batches += 1
        self._given = [] if sampled else inputs
        self.fixed.update(gather_object([row[SAMPLER] for row in self._given]))
        return super()._generate_and_score_completions(inputs)  # type: ignore[misc]

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """Tokens of prompts and completions, then what only tools and images need."""
        if not self._given:
            return super()._generate(prompts)  # type: ignore[misc]
        prompt_ids = [row[IDS][: row[START]] for row in self._given]
        return prompt_ids, [row[IDS][row[START] :] for row in self._given], None, None, []

    def consumed(self, steps: int, rows: int) -> None:
        if not self._given:
            super().consumed(steps, rows)  # type: ignore[misc]


def sampled_by(batches: int, share: float) -> int:
    """How many of the first batches are sampled."""
    return int(batches * share + 1e-9)  # ten times a tenth is one
