"""The rewards of a group beside its rollouts: what mixins that weigh or drop whole groups decide by."""

from __future__ import annotations

from typing import Any


class KeepsRewards:
    """Mixin for a TRL online trainer: a batch gains `rewards` (B,) and `baselines` (B,), its group's mean reward.

    Rewards are weighted sums of the terms, as TRL maximises them; NaN where no term could score, and then in no mean.
    """

    def _calculate_rewards(self, *inputs: Any) -> Any:
        self._rewards_NF = super()._calculate_rewards(*inputs)  # type: ignore[misc]  # N: rollouts of all processes
        return self._rewards_NF

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        import torch

        batch = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        weights_F = self.reward_weights.to(self._rewards_NF.device)  # type: ignore[attr-defined]
        reward_N = (self._rewards_NF * weights_F).nansum(dim=1)
        reward_N[self._rewards_NF.isnan().all(dim=1)] = torch.nan
        size = self.num_generations  # type: ignore[attr-defined]
        baseline_N = reward_N.view(-1, size).nanmean(dim=1).repeat_interleave(size)
        start = self.accelerator.process_index * len(inputs)  # type: ignore[attr-defined]
        mine = slice(start, start + len(inputs))
        return batch | {"rewards": reward_N[mine], "baselines": baseline_N[mine]}
