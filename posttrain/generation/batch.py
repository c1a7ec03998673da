"""One batch of prompts: its padding, and its draws, which do not depend on what else is in the batch.

Shapes, here and in `decode`: P prompts of a batch, N samples of a prompt, R = P * N rows (fewer once rows are dropped),
T new tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from posttrain.generation.decoding import Decoding


@dataclass(frozen=True)
class Batch:
    """What an engine decodes in one go. Row p * N + n is sample n of prompt p."""

    prompts: list[list[int]]
    samples: int
    room: torch.Tensor
    """[R], tokens a row may still get."""
    uniforms: torch.Tensor | None
    """[R, T] in [0, 1), the number each token is drawn with; None = greedy."""
    warpers: LogitsProcessorList

    @classmethod
    def of(
        cls,
        members: list[int],
        samples: range,
        rendered: list[list[int]],
        rooms: list[int],
        decoding: Decoding,
        device: torch.device,
    ) -> Batch:
        room = torch.tensor([rooms[member] for member in members], device=device).repeat_interleave(len(samples))
        uniforms = None
        if decoding.temperature > 0:
            draws = [_uniforms(decoding, member, samples) for member in members]
            uniforms = torch.from_numpy(np.concatenate(draws)).to(device)
        return cls([rendered[member] for member in members], len(samples), room, uniforms, _warpers(decoding))

    def padded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, both [P, longest prompt], padded on the left.

        Padding is masked, so any id will do; 0 always has an embedding, which an added pad token may not have.
        """
        width = max(map(len, self.prompts))
        ids = [[0] * (width - len(prompt)) + prompt for prompt in self.prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in self.prompts]
        return torch.tensor(ids, device=self.room.device), torch.tensor(mask, device=self.room.device)

    def draw(self, logits: torch.Tensor, rows: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token of `rows` and its log-probability under the policy, both [len(rows)], from [len(rows), V].

        Sampling inverts the cumulative distribution, so that a token depends on its own uniform alone and not on which
        rows share the batch. In float64: float32 sums over a vocabulary of 150 000 lose the rare tokens.
        """
        logits = logits.float()
        if self.uniforms is None:
            tokens = logits.argmax(-1, keepdim=True)
        else:
            cumulative = self.warpers(None, logits).softmax(-1, dtype=torch.float64).cumsum(-1)
            target = self.uniforms[rows, step, None] * cumulative[:, -1:]
            # The clamp keeps NaN logits from indexing out of range, which would kill the GPU context before
            # `sample` can say what happened.
            tokens = torch.searchsorted(cumulative, target, right=True).clamp(max=logits.shape[-1] - 1)
        logprobs = logits.gather(-1, tokens) - logits.logsumexp(-1, keepdim=True)
        return tokens[:, 0], logprobs[:, 0]


def _uniforms(decoding: Decoding, index: int, samples: range) -> np.ndarray:
    """[len(samples), T] for these samples of the prompt at `index`.

    From NumPy: torch's CPU generator keeps 32 bits of its seed, which cannot hold a seed and an index.
    """
    draws = np.random.default_rng((decoding.seed, index)).random((samples.stop, decoding.max_new_tokens))
    return draws[samples.start :]


def _warpers(decoding: Decoding) -> LogitsProcessorList:
    """In the order in which `generate` applies them."""
    warpers = LogitsProcessorList()
    if decoding.temperature not in (0, 1):
        warpers.append(TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_k > 0:
        warpers.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1:
        warpers.append(TopPLogitsWarper(decoding.top_p))
    return warpers
