"""REINFORCE++ (2501.03262): advantages normalised over the whole batch instead of over each prompt's group.

TRL's `scale_rewards="batch"` is something else: it centres by the group and divides by the deviation of the *rewards*,
in which prompts that are easy or hard count; the paper divides by the deviation of what it has centred.
"""

from __future__ import annotations

from typing import Any

from posttrain.training.ranks import mean_of_all

_EPSILON = 1e-4  # TRL's, added to a deviation: rewards that are all alike must not become noise


class NormalisesGlobally:
    """Mixin for `trl.GRPOTrainer`, outside of `KeepsRewards`: the batch's `advantages` become the paper's, (B, T).

    Without a group baseline (REINFORCE++) A_t = r − β Σ_{i ≥ t} log(π(y_i) / π_ref(y_i)): the KL penalty is in the
    reward of each token and not in the loss. With it (REINFORCE++-baseline) A_t = r − mean of the group's r, and the KL
    term is TRL's, in the loss. Both are then centred and scaled over every token of the batch, of all processes.
    Rollouts that no reward could score have no advantage and are in no mean.
    """

    beta: float

    def __init__(self, *args: Any, group_baseline: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._group_baseline = group_baseline

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        mask_BT = batch["completion_mask"].bool() & batch["rewards"].isfinite()[:, None]
        centre_B = batch["baselines"] if self._group_baseline else 0
        advantages_BT = (batch["rewards"] - centre_B)[:, None] - self._penalty(batch)
        return batch | {"advantages": self._normalised(advantages_BT, mask_BT)}

    def _penalty(self, batch: Any) -> Any:
        """β times the KL that is still to come, estimated by the log-ratio at each sampled token. Shape (B, T)."""
        import torch

        mask_BT = batch["completion_mask"]
        if self._group_baseline or not self.beta:
            return torch.zeros_like(mask_BT, dtype=torch.float32)
        kl_BT = (self._old_logprobs(batch) - batch["ref_per_token_logps"]) * mask_BT
        kl = mean_of_all(self.accelerator, kl_BT[mask_BT.bool()])  # type: ignore[attr-defined]
        self._metrics["train"]["kl"].append(float(kl))  # type: ignore[attr-defined]
        return self.beta * kl_BT.flip(1).cumsum(1).flip(1)

    def _old_logprobs(self, batch: Any) -> Any:
        """Log-probabilities under the policy that sampled, which is the present one where TRL stored none."""
        import torch

        if "old_per_token_logps" in batch:
            return batch["old_per_token_logps"]
        ids, mask = (
            torch.cat([batch[f"prompt_{part}"], batch[f"completion_{part}"]], dim=1) for part in ("ids", "mask")
        )
        with torch.no_grad():
            return self._get_per_token_logps_and_entropies(  # type: ignore[attr-defined]
                self.model,  # type: ignore[attr-defined]
                ids,
                mask,
                batch["completion_ids"].size(1),
                batch_size=self.args.per_device_train_batch_size,  # type: ignore[attr-defined]
            )[0]

    def _normalised(self, advantages_BT: Any, mask_BT: Any) -> Any:
        import torch

        accelerator = self.accelerator  # type: ignore[attr-defined]
        centred_BT = advantages_BT - mean_of_all(accelerator, advantages_BT[mask_BT])
        deviation = mean_of_all(accelerator, centred_BT[mask_BT] ** 2).sqrt()
        return torch.where(mask_BT, centred_BT / (deviation + _EPSILON), 0.0)

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        if self._group_baseline:
            return super()._compute_loss(model, inputs)  # type: ignore[misc]
        beta, self.beta = self.beta, 0.0  # the penalty is in the reward already
        try:
            return super()._compute_loss(model, inputs)  # type: ignore[misc]
        finally:
            self.beta = beta
