"""How stale the trajectories of an online trainer really were.

TRL's online trainers sample a batch in `_generate_and_score_completions` and consume it in one or more calls of
`training_step`; the optimizer steps between the two are the staleness that the record reports.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any


class MeasuresStaleness:
    """Mixin for a TRL online trainer: `staleness` maps optimizer steps since sampling → trajectories consumed."""

    staleness: Counter[int]
    _sampled_at: int = 0
    KEPT = ("staleness", "_sampled_at")

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._sampled_at = self.state.global_step  # type: ignore[attr-defined]
        return super()._generate_and_score_completions(inputs)  # type: ignore[misc]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        loss = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        args = self.args  # type: ignore[attr-defined]
        # Read after the step: the samples that this step consumed may have been drawn inside it.
        steps = self.state.global_step - self._sampled_at  # type: ignore[attr-defined]
        self.consumed(steps, args.per_device_train_batch_size * args.world_size)
        return loss

    def consumed(self, steps: int, rows: int) -> None:
        """Count rows that were trained on so many optimizer steps after they were sampled."""
        if not hasattr(self, "staleness"):
            self.staleness = Counter()
        self.staleness[steps] += rows


def expected_staleness(batches_per_sampling: int, accumulation: int) -> int:
    """The largest staleness that a schedule leads to.

    Args:
        batches_per_sampling: forward passes that consume one sampled batch, repeats included.
        accumulation: forward passes per optimizer step.
    """
    # Samplings start at multiples of their length, so they begin at most this far into an optimizer step.
    latest_start = accumulation - math.gcd(batches_per_sampling, accumulation)
    return (latest_start + batches_per_sampling - 1) // accumulation
