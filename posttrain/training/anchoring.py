"""Supervised losses that hold a policy near where it was, so that a new task costs less of the old ones.

Written π for the policy, p = π(token | before) for a demonstrated token, sg for "no gradient":

* `anchored`: −log p + λ KL(π_anchor ‖ π), exact over the vocabulary at every demonstrated token; `asft`: the first term
  weighted by sg(p) (anchored supervised fine-tuning, 2509.23753: dynamic fine-tuning drifts without an anchor).
* `proximal`: −min(r, clip(r, 1 − ε, 1 + ε)) with r = p / p_old, which is PPO's surrogate with an advantage of one
  (proximal supervised fine-tuning, 2508.17784): a token that became likelier by 1 + ε teaches nothing more until π_old
  is set to π again. The paper does so for every global batch of several optimizer steps.

TRL's trainer sums a loss of every token, divides, scales over processes and logs; these mixins only change what it
takes for the log-probability of a token, so all of that stays its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from posttrain.training.ranks import mean_of_all, spread_as

Forward = Callable[..., Any]


class _OwnObjective:
    """Mixin for `trl.SFTTrainer`: `_objective` gives what the trainer maximises at each token, in `log_probs`."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        forward = partial(self._objective, model)
        return super().compute_loss(forward, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]

    def _objective(self, model: Forward, **inputs: Any) -> Any:
        raise NotImplementedError

    def _log(self, **values_N: Tensor) -> None:
        """Beside TRL's own curves: the mean of each over the tokens of all processes."""
        for name, value_N in values_N.items():
            mean = mean_of_all(self.accelerator, value_N)  # type: ignore[attr-defined]
            self._metrics["train"][name].append(mean.item())  # type: ignore[attr-defined]


class Anchored(_OwnObjective):
    """`anchored` and `asft`. Logs `nll` and `anchor_kl`, nats a token.

    The whole vocabulary's log-probabilities of both policies are in memory at the demonstrated tokens, which TRL's own
    loss avoids: halve `batch_size` where that is too much.

    Args:
        anchor: the directory of π_anchor.
        weight: λ.
        dynamic: weigh the demonstrated tokens by sg(p).
    """

    def __init__(self, *args: Any, anchor: str, weight: float, dynamic: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        dtype = self.accelerator.unwrap_model(self.model).dtype  # type: ignore[attr-defined]
        frozen = AutoModelForCausalLM.from_pretrained(anchor, dtype=dtype, use_safetensors=True)
        self._anchor = spread_as(self, frozen)
        self._weight, self._dynamic = weight, dynamic

    def _objective(self, model: Forward, **inputs: Any) -> Any:
        from trl.trainer.utils import FusedCausalLMOutput

        labels_BT = inputs.pop("labels")[:, 1:]
        inputs.pop("fused_lm_head", None)
        mask_BT = labels_BT != -100
        outputs = model(**inputs)
        logp_NV = outputs.logits[:, :-1][mask_BT].float().log_softmax(-1)
        with torch.no_grad():
            anchor_NV = self._anchor(**inputs).logits[:, :-1][mask_BT].float().log_softmax(-1)
        labels_N = labels_BT[mask_BT]
        logp_N = logp_NV.gather(-1, labels_N[:, None])[:, 0]
        kl_N = (anchor_NV.exp() * (anchor_NV - logp_NV)).sum(-1)
        weight_N = logp_N.detach().exp() if self._dynamic else 1.0
        self._log(nll=-logp_N, anchor_kl=kl_N)

        def placed(values_N: Tensor) -> Tensor:
            return values_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, values_N)

        return FusedCausalLMOutput(
            log_probs=placed(weight_N * logp_N - self._weight * kl_N),
            entropy=placed(-(logp_NV.exp() * logp_NV).sum(-1).detach()),
            is_top1=placed((logp_NV.argmax(-1) == labels_N).float()),
            label_mask=mask_BT,
            aux_loss=getattr(outputs, "aux_loss", None),
        )


class Proximal(_OwnObjective):
    """`proximal`. Logs `nll` and the share of demonstrated tokens that taught nothing, `clipped`.

    π_old is kept as a copy of the weights that are trained, put in their place for a forward pass without gradient: one
    more copy of them in memory, of the adapters alone with LoRA.

    Args:
        clip: ε.
        refresh: optimizer steps after which π_old becomes π.
    """

    KEPT = ("_old", "_copied_at")

    def __init__(self, *args: Any, clip: float, refresh: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clip, self._refresh, self._copied_at = clip, refresh, -1
        self._old: list[Tensor] = []

    def _objective(self, model: Forward, **inputs: Any) -> Any:
        step = self.state.global_step  # type: ignore[attr-defined]
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]  # type: ignore[attr-defined]
        if step % self._refresh == 0 and step != self._copied_at:
            self._old, self._copied_at = [weight.detach().clone() for weight in trained], step
        with torch.no_grad(), _in_place(trained, self._old):
            old_BT = model(**inputs).log_probs
        outputs = model(**inputs)
        ratio_BT = (outputs.log_probs - old_BT).exp()
        mask_BT = outputs.label_mask
        clipped_BT = ratio_BT > 1 + self._clip
        self._log(nll=-outputs.log_probs[mask_BT], clipped=clipped_BT[mask_BT])
        # With an advantage of one the lower side of the clip never holds: min(r, clip(r)) = min(r, 1 + ε).
        outputs.log_probs = ratio_BT.clamp(max=1 + self._clip) * mask_BT
        return outputs


@contextmanager
def _in_place(weights: list[Any], others: list[Tensor]) -> Iterator[None]:
    """Other values in place of the weights, by exchanging storage: nothing is copied."""
    current = [weight.data for weight in weights]
    try:
        for weight, other in zip(weights, others, strict=True):
            weight.data = other
        yield
    finally:
        for weight, mine in zip(weights, current, strict=True):
            weight.data = mine
