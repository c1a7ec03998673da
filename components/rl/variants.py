"""The published variants of group-relative RL: what each paper changes, in TRL's arguments and in ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Name = Literal[
    "grpo",
    "dr_grpo",
    "dapo",
    "bnpo",
    "gspo",
    "cispo",
    "sapo",
    "luspo",
    "vespo",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "rloo",
]


@dataclass(frozen=True)
class Variant:
    """A row of the table. `trainer_args` may override any of `arguments` but those in `essence`."""

    arguments: dict[str, Any] = field(default_factory=dict)
    trainer: str = "GRPO"
    essence: tuple[str, ...] = ()  # arguments without which it would be another method under this name
    dynamic_sampling: bool = False
    global_advantages: Literal["", "plain", "group_baseline"] = ""


_BY_SEQUENCE = ("loss_type", "importance_sampling_level")

VARIANTS: dict[str, Variant] = {
    "grpo": Variant({"loss_type": "grpo"}),
    "dr_grpo": Variant({"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "dapo": Variant(
        {"loss_type": "dapo", "epsilon_high": 0.28, "mask_truncated_completions": True}, dynamic_sampling=True
    ),
    "bnpo": Variant({"loss_type": "bnpo"}),
    # TRL warns unless sequence-level ratios go with the grpo loss; the clipping range is the paper's section 5.1.
    "gspo": Variant(
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        essence=_BY_SEQUENCE,
    ),
    "cispo": Variant({"loss_type": "cispo", "epsilon_high": 5.0}),
    "sapo": Variant({"loss_type": "sapo"}),
    # GSPO with each sequence weighed by its length; its ratios and so its clipping range are GSPO's.
    "luspo": Variant(
        {"loss_type": "luspo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        essence=_BY_SEQUENCE,
    ),
    "vespo": Variant({"loss_type": "vespo", "importance_sampling_level": "token"}, essence=_BY_SEQUENCE),
    # PPO's clipped loss, a mean over the batch's tokens: TRL calls that mean "dapo".
    "reinforce_pp": Variant({"loss_type": "dapo"}, global_advantages="plain"),
    "reinforce_pp_baseline": Variant({"loss_type": "dapo"}, global_advantages="group_baseline"),
    "rloo": Variant(trainer="RLOO"),
}

# TRL's ways to normalise over a batch happen before a batch is filled up anew.
BATCHWISE = {
    "scale_rewards": ("batch",),
    "multi_objective_aggregation": ("normalize_then_sum",),
    "normalize_advantages": (True,),
}
