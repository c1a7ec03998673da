"""What every engine is asked for and gives back: decoding settings and completions. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Finish = Literal["eos", "length", "stop"]


class Decoding(BaseModel):
    """How completions are drawn. The defaults sample from the policy itself, as Pass@k and on-policy training need.

    A policy's own generation config (its temperature, top-p, repetition penalty) is not consulted, but for its EOS ids.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(ge=1)
    """Completions per prompt."""
    max_new_tokens: int = Field(ge=1)
    """Longest completion, its EOS included; shorter where the policy's context ends first."""
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """0 = greedy: the likeliest token each time, so all samples of a prompt are the same."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the likeliest tokens up to this probability; 1 = all."""
    top_k: int = Field(default=0, ge=0)
    """Keep this many of the likeliest tokens; 0 = all."""
    seed: int = Field(default=0, ge=0)
    """The same seed, prompts and policy give the same completions."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion of one prompt."""

    text: str
    """Without special tokens and without the EOS."""
    tokens: list[int]
    """With the EOS, if it was sampled."""
    logprobs: list[float]
    """One per token, in nats, under the policy itself: temperature 1, the whole vocabulary, whatever was drawn from."""
    finish: Finish
    """What ended it: EOS, its room, or a token that sampling was told to stop at."""
