"""Several teachers, each for its own problems: multi-teacher on-policy distillation (MOPD).

A specialist supervises the rollouts of its slice, so that one student takes up what several specialists learned
(MiMo-V2-Flash 2601.02780; Nemotron-Cascade 2 2603.19220). TRL's trainer holds one teacher; this mixin changes only
which one it holds while the loss of a row is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from posttrain.errors import ConfigError
from posttrain.training.ranks import spread_as

COLUMN = "teacher"  # of the data set: the index of the row's teacher


class RoutesTeachers:
    """Mixin for `trl.DistillationTrainer`: `teacher_model` is a list of paths, each row's `teacher` an index in it.

    The loss of a batch is a sum over tokens divided by their number in the whole batch, so the parts that each teacher
    supervises add up to it; a batch of one teacher is TRL's own, bit for bit. All teachers stay in memory.
    `routed` counts rollouts by teacher.

    Raises:
        ConfigError: several teachers, and the run shards models (FSDP, DeepSpeed): processes whose batches need
            different teachers would wait for one another for ever.
    """

    routed: Counter[int]
    teacher_model: Any
    SHARES = ("routed",)

    def __init__(self, *args: Any, teacher_model: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, teacher_model=teacher_model[0], **kwargs)  # type: ignore[call-arg]
        self.routed = Counter()
        if teacher_model[1:] and (self.is_fsdp_enabled or self.is_deepspeed_enabled):  # type: ignore[attr-defined]
            raise ConfigError(
                f"{len(teacher_model)} teachers cannot be sharded over processes (FSDP, DeepSpeed); train with one "
                "process a GPU, or distil from one teacher after the other"
            )
        if self.is_fsdp_enabled:  # type: ignore[attr-defined]
            self.teacher_model = spread_as(self, self.teacher_model)  # TRL leaves it whole, and where it was loaded
        self._teachers = [self.teacher_model, *map(self._load_teacher, teacher_model[1:])]

    def _load_teacher(self, path: str) -> Any:
        from transformers import AutoModelForCausalLM

        dtype = self.accelerator.unwrap_model(self.teacher_model).dtype  # type: ignore[attr-defined]
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True)
        return spread_as(self, model)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        import torch

        batch = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        teachers = [row[COLUMN] for row in inputs]
        self.routed.update(teachers)
        # TRL hands on the columns that it knows; it shuffles and splits this one with them.
        return batch | {COLUMN: torch.tensor(teachers, device=batch["prompt_ids"].device)}

    def _compute_loss(self, student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> tuple[Any, Any, Any]:
        """Loss, summed entropy and number of tokens, each added up over the teachers in the batch."""
        inputs = dict(inputs)
        teacher_B = inputs.pop(COLUMN)
        present = teacher_B.unique().tolist()
        if num_items_in_batch is None:
            num_items_in_batch = inputs["completion_mask"].sum().clamp(min=1)
        parts = []
        for index in present:
            self.teacher_model = self._teachers[index]
            mine = inputs if len(present) == 1 else _rows(inputs, teacher_B == index)
            parts.append(super()._compute_loss(student, mine, num_items_in_batch))  # type: ignore[misc]
        losses, entropies, tokens = zip(*parts, strict=True)
        return sum(losses), sum(entropies), sum(tokens)


def _rows(batch: dict[str, Any], chosen_B: Any) -> dict[str, Any]:
    """Some rows of a batch; what is no tensor of rows, as the number of items, stays."""
    return {name: value[chosen_B] if getattr(value, "ndim", 0) else value for name, value in batch.items()}
