"""What a step is expected to cost, from the number of problems, samples, tokens and parameters.

2 N floating-point operations a sampled token and 6 N a trained one, N parameters (2001.08361, section 2.1); attention
over the context is left out. An estimate to choose by, not a bill.
"""

from __future__ import annotations

from dataclasses import dataclass

from posttrain.diagnosis.diagnosis import Diagnosis
from posttrain.recipes.compose import StepUse, step

# Where a stage's settings leave the number of steps to the data: passes over it, as the stages' defaults have them.
_EPOCHS = 3.0


@dataclass(frozen=True)
class Cost:
    """Tokens that a step samples and trains on, and the floating-point operations that takes."""

    sampled_tokens: float
    trained_tokens: float
    flops: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.sampled_tokens + other.sampled_tokens,
            self.trained_tokens + other.trained_tokens,
            self.flops + other.flops,
        )

    def __str__(self) -> str:
        return f"{self.sampled_tokens:.2g} tokens sampled, {self.trained_tokens:.2g} trained on, {self.flops:.1e} FLOP"


def cost_of(use: StepUse, diagnosis: Diagnosis, problems: int) -> Cost:
    """The expected cost of a step.

    Args:
        problems: training problems.
    """
    sampled = trained = 0.0
    for name, spec in step(use.step).stages.items():
        settings = {**spec.settings, **use.settings.get(name, {})}
        samples = float(settings.get("samples", 1))
        if spec.use in ("rollout", "evaluate"):
            sampled += problems * samples * diagnosis.tokens
        elif spec.use == "rl":
            seen = problems * float(settings.get("group_size", 8)) * float(settings.get("epochs", _EPOCHS))
            sampled += seen * diagnosis.tokens
            trained += seen * diagnosis.tokens
        elif spec.use == "distill" and settings.get("method") == "on_policy_distillation":
            seen = problems * float(settings.get("epochs", _EPOCHS))
            sampled += seen * diagnosis.tokens
            trained += 2 * seen * diagnosis.tokens  # the teacher reads them too
        elif spec.use in ("sft", "distill", "preference"):
            trained += problems * float(settings.get("epochs", _EPOCHS)) * diagnosis.tokens
    return Cost(sampled, trained, diagnosis.parameters * (2 * sampled + 6 * trained))
