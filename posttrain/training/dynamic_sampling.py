"""DAPO's dynamic sampling (2503.14476, section 3.2 and eq. 11), which TRL lacks.

A group whose rewards are all alike has no advantage and no gradient, so a batch of such groups teaches little: they are
replaced by groups of other prompts, sampled anew by the same policy, until each group has a contrast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.errors import ConfigError
from posttrain.training.ranks import mean_of_all

Group = dict[str, Any]  # the rows of one group, as a batch of its own


class SamplesDynamically:
    """Mixin for a TRL online trainer, outside of `KeepsRewards`: batches are filled with groups that have a contrast.

    A round samples as many groups as are lacking, so it costs no more than the batch lacks. After `max_resampling`
    rounds the batch is filled up with groups without contrast: its size, and so the learning rate's meaning, stay.
    All rounds sample the policy of the same step, so nothing becomes staler. `discarded` counts rollouts that were
    sampled and not trained on; the curve `kept_groups` is the share of sampled groups that had a contrast, and
    `frac_reward_zero_std` becomes that of the batch that is trained on.

    Raises:
        ConfigError: a group is spread over processes, which would have to agree on every group.
    """

    discarded: int = 0
    KEPT, SHARES = ("_order", "_queue"), ("discarded",)

    def __init__(self, *args: Any, max_resampling: int, **kwargs: Any) -> None:
        import torch

        super().__init__(*args, **kwargs)
        self._max_resampling = max_resampling
        own, size = self.args, self.num_generations  # type: ignore[attr-defined]
        rows = own.per_device_train_batch_size * own.steps_per_generation
        if rows % size:
            raise ConfigError(
                f"dynamic sampling needs whole groups in each process, but one samples {rows} rollouts at a time and a "
                f"group has {size}; make batch_size × accumulation a multiple of group_size, or set "
                "dynamic_sampling=never"
            )
        # Its own generator: a batch that needs no replacement is TRL's, bit for bit. All processes draw the same.
        self._order = torch.Generator().manual_seed(own.seed)
        self._queue: list[int] = []

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        size, wanted = self.num_generations, len(inputs) // self.num_generations  # type: ignore[attr-defined]
        drawn = self._of_all([row["problem"] for row in inputs[::size]])
        contrasted: list[Group] = []
        alike: list[Group] = []
        lacking, rounds, sampled = wanted, 0, 0
        while lacking:
            batch = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
            for group in groups_of(batch, size):
                (contrasted if has_contrast(group["rewards"]) else alike).append(group)
            rounds, sampled = rounds + 1, sampled + len(inputs) // size
            # As many as the process lacks that lacks most: all must sample, and in batches of one size.
            lacking = max(self._of_all([wanted - len(contrasted)])) * (rounds <= self._max_resampling)
            inputs = [row for row in self._others(lacking, drawn) for _ in range(size)]
        filled = (contrasted + alike)[:wanted]
        self.discarded += (sampled - wanted) * size
        self._log_sampling(rounds, len(contrasted) / sampled, max(0, wanted - len(contrasted)) / wanted)
        return batch if rounds == 1 else self._merged(filled)

    def _others(self, count: int, drawn: list[int]) -> list[Any]:
        """Rows of the next `count` prompts for each process, of which this one's are returned.

        None of them was drawn for this batch by any process, unless all were. `drawn` gains them.
        """
        chosen: list[int] = []
        rows, own = len(self.train_dataset), self.args  # type: ignore[attr-defined]
        if not self.shuffle_dataset:  # type: ignore[attr-defined]
            self._queue = []  # ordered data goes on from this batch, not from where the last one was filled up
        while len(chosen) < count * own.world_size:
            if not self._queue:
                self._queue = self._next_pass(rows, drawn[-1])
            index = self._queue.pop(0)
            if index not in drawn or len(set(drawn)) == rows:
                chosen.append(index)
                drawn.append(index)
        mine = chosen[own.process_index * count : (own.process_index + 1) * count]
        return [self.train_dataset[index] for index in mine]  # type: ignore[attr-defined]

    def _next_pass(self, rows: int, last: int) -> list[int]:
        """All prompts in the order in which they come: random, or the data's own, from `last` on, if that has one."""
        import torch

        if self.shuffle_dataset:  # type: ignore[attr-defined]
            return torch.randperm(rows, generator=self._order).tolist()
        return [(last + 1 + step) % rows for step in range(rows)]

    def _merged(self, groups: Sequence[Group]) -> Any:
        import torch

        pad = self._tokenizer.pad_token_id  # type: ignore[attr-defined]
        batch = {name: _stacked([group[name] for group in groups], name, pad) for name in groups[0]}
        if "num_items_in_batch" in batch:  # the tokens that the loss is divided by, of the batch as it is now
            mask = batch["completion_mask"] * batch.get("tool_mask", torch.ones_like(batch["completion_mask"]))
            batch["num_items_in_batch"] = self.accelerator.gather(mask.sum()).sum()  # type: ignore[attr-defined]
        return batch

    def _log_sampling(self, rounds: int, kept: float, alike: float) -> None:
        accelerator = self.accelerator  # type: ignore[attr-defined]
        metrics = self._metrics["train"]  # type: ignore[attr-defined]
        metrics["kept_groups"].append(float(mean_of_all(accelerator, [kept])))
        metrics["frac_reward_zero_std"][-rounds:] = [float(mean_of_all(accelerator, [alike]))]

    def _of_all(self, numbers: list[int]) -> list[int]:
        """The numbers of every process, those of the first process first."""
        import torch

        accelerator = self.accelerator  # type: ignore[attr-defined]
        own = torch.tensor(numbers, device=accelerator.device)
        return [int(number) for number in accelerator.gather(own)]


def groups_of(batch: dict[str, Any], size: int) -> list[Group]:
    """A batch cut into its groups; what is one number for the whole batch stays one."""
    rows = len(batch["rewards"])
    return [
        {name: value[start : start + size] if value.ndim else value for name, value in batch.items()}
        for start in range(0, rows, size)
    ]


def has_contrast(reward_G: Any) -> bool:
    """Whether two rollouts of a group were scored and differ."""
    known = reward_G[~reward_G.isnan()]
    return len(known) > 1 and bool((known.max() - known.min()) > 1e-6)


def _stacked(values: list[Any], name: str, pad_token: int) -> Any:
    """One tensor of all groups' rows, padded as TRL pads: prompts on the left, all else on the right."""
    import torch

    if not values[0].ndim:
        return values[0]
    if values[0].ndim == 1:
        return torch.cat(values)
    width = max(value.size(1) for value in values)
    filler = pad_token if name in ("prompt_ids", "completion_ids") else 1 if name == "tool_mask" else 0
    room = [(width - value.size(1), 0) if name.startswith("prompt") else (0, width - value.size(1)) for value in values]
    return torch.cat(
        [torch.nn.functional.pad(value, sides, value=filler) for value, sides in zip(values, room, strict=True)]
    )
