"""What the stages listen to while a trainer runs."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from posttrain.progress import Progress

# Wall-clock figures differ from run to run and say nothing about learning.
_NOT_CURVES = {"epoch", "num_tokens", "step_time", "total_flos", "train_loss"}
_MOST_POINTS = 500


class Listener(TrainerCallback):
    """Reports progress and keeps the logged curves."""

    KEPT = ("curves",)

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.curves: dict[str, list[list[float]]] = {}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._progress.update(state.global_step, state.max_steps, "step")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value in (logs or {}).items():
            timing = name in _NOT_CURVES or name.startswith(("train_", "profiling/"))
            if not timing and isinstance(value, int | float) and math.isfinite(value):
                self.curves.setdefault(name, []).append([state.global_step, float(value)])

    def thinned(self) -> dict[str, list[list[float]]]:
        """The curves with at most 500 points each, the last point kept."""
        return {name: _thin(points) for name, points in self.curves.items()}


def _thin(points: list[list[float]]) -> list[list[float]]:
    stride = math.ceil(len(points) / _MOST_POINTS)
    return points[::-1][::stride][::-1]
