"""How a stage samples a policy: the settings, and the one way to do it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.problems import Problem
from posttrain.generation.decoding import Completion, Decoding
from posttrain.progress import Progress
from posttrain.settings import Settings


class SamplingSettings(Settings):
    """Decoding."""

    samples: int = Field(default=8, gt=0, description="samples a problem")
    max_new_tokens: int = Field(default=512, gt=0, description="longest completion, in tokens")
    temperature: float = Field(default=1.0, ge=0, description="sampling temperature; 0 = greedy")
    top_p: float = Field(default=1.0, gt=0, le=1, description="nucleus")
    top_k: int = Field(default=0, ge=0, description="0 = all tokens")
    batch_rows: int = Field(default=512, gt=0, description="sequences decoded together")


def sample_problems(
    policy: Artifact, problems: Sequence[Problem], settings: SamplingSettings, progress: Progress
) -> list[list[Completion]]:
    """`settings.samples` completions of every problem's prompt, in the order of the problems."""
    from posttrain.generation.transformers import load_policy, sample

    return sample(
        *load_policy(policy.path),
        [problem.prompt for problem in problems],
        Decoding(**settings.model_dump(include=set(Decoding.model_fields))),
        batch_rows=settings.batch_rows,
        on_progress=lambda done, total: progress.update(done, total, "problem"),
    )
