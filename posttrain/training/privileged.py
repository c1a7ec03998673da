"""Self-distillation of a context: the policy teaches itself what it knows when it sees a demonstration.

Self-distillation fine-tuning (SDFT, 2601.19897): the student samples from the plain prompt; its teacher is the same
policy, given a demonstration beside the prompt. Both are compared on the student's tokens, so what the context brings
is learned on-policy, without a reward and without imitating the demonstration's words. TRL has it in
`trl.experimental.sdft`, on a trainer of its own; this mixin changes only what the stable trainer's teacher reads.
"""

from __future__ import annotations

from typing import Any

from posttrain.errors import ConfigError

COLUMN = "privileged"  # of the data set: the prompt that the teacher sees


class SeesDemonstrations:
    """Mixin for `trl.DistillationTrainer`: the teacher reads the completion after the row's `privileged` prompt.

    Args:
        teacher_update: how far the teacher's weights move to the student's at every step: 0 keeps the policy that
            training started from, 1 is the student itself, between them an exponential moving average (the paper's).

    Raises:
        ConfigError: the teacher is to move, and its weights are sharded, or the student's are in an adapter.
    """

    KEPT = ("_moving_teacher",)

    def __init__(self, *args: Any, teacher_update: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._teacher_update = teacher_update
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled  # type: ignore[attr-defined]
        if teacher_update and (sharded or hasattr(self._student, "peft_config")):
            raise ConfigError(
                f"teacher_update={teacher_update} needs the student's whole weights in each process; set "
                "teacher_update=0, or train all weights (lora_rank=0) without FSDP and DeepSpeed"
            )

    @property
    def _student(self) -> Any:
        return self.accelerator.unwrap_model(self.model)  # type: ignore[attr-defined]

    @property
    def _teacher(self) -> Any:
        return self.accelerator.unwrap_model(self.teacher_model)  # type: ignore[attr-defined]

    @property
    def _moving_teacher(self) -> Any:
        return self._teacher if self._teacher_update else None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        if self.state.global_step:  # type: ignore[attr-defined]
            self._follow()
        batch = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        prompts, *_ = self._tokenize_prompts([row[COLUMN] for row in inputs])  # type: ignore[attr-defined]
        place = batch["prompt_ids"].device
        ids, mask = (
            pad_sequence(
                [torch.tensor(row) for row in rows], batch_first=True, padding_value=fill, padding_side="left"
            ).to(place)
            for rows, fill in ((prompts, self._tokenizer.pad_token_id), ([[1] * len(p) for p in prompts], 0))  # type: ignore[attr-defined]
        )
        return batch | {"privileged_ids": ids, "privileged_mask": mask}

    def _follow(self) -> None:
        """Move the teacher's weights towards the student's; batches are sampled once an optimizer step."""
        import torch

        if self._teacher_update:
            with torch.no_grad():
                for theirs, mine in zip(self._teacher.parameters(), self._student.parameters(), strict=True):
                    theirs.lerp_(mine.to(theirs.dtype), self._teacher_update)

    def _compute_loss(self, student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        self._privileged = (inputs["privileged_ids"], inputs["privileged_mask"])
        return super()._compute_loss(student, inputs, num_items_in_batch)  # type: ignore[misc]

    def _get_last_hidden_state(self, model: Any, ids: Any, mask: Any, completion: int, **more: Any) -> Any:
        """The hidden states before the last `completion` tokens; the teacher's after its own prompt."""
        import torch

        if model is self._teacher:
            plain = (ids, mask)
            ids, mask = (
                torch.cat([before, whole[:, -completion:]], dim=1)
                for before, whole in zip(self._privileged, plain, strict=True)
            )
        return super()._get_last_hidden_state(model, ids, mask, completion, **more)  # type: ignore[misc]


def privileged_prompt(prompt: Any, demonstration: str, template: str) -> Any:
    """What the teacher sees: the template filled with prompt and demonstration; of messages, in the last one."""
    if isinstance(prompt, str):
        return _filled(template, prompt, demonstration)
    last = {**prompt[-1], "content": _filled(template, prompt[-1]["content"], demonstration)}
    return [*prompt[:-1], last]


def _filled(template: str, prompt: str, demonstration: str) -> str:
    # Not str.format: a template may hold braces, and so may what is filled in.
    before, _, after = template.partition("{demonstration}")
    return before.replace("{prompt}", prompt) + demonstration + after.replace("{prompt}", prompt)
