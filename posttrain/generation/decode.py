"""Two ways to decode a batch, with the same draws: a cache shared by a prompt's samples, or `model.generate`.

What `generate` leaves on the table when many completions of the same prompts are wanted: it prefills a prompt once per
sample and carries finished rows along until the last one ends. `decode_shared` prefills a prompt once, repeats its
cache for its samples, and drops rows as they end.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from posttrain.generation.batch import Batch

# Named, not asked by hasattr: hybrid layers inherit `batch_repeat_interleave` from their attention half, which
# repeats the keys and values and silently leaves the recurrent state at the old batch size.
_REPEATABLE = {DynamicLayer, DynamicSlidingWindowLayer, DummyLayer}
# Dropping rows copies the cache, about what one more step costs, since a dynamic cache is copied at every step.
_DROP_BELOW = 0.75


def can_repeat_cache(model: PreTrainedModel) -> bool:
    """Whether `decode_shared` is right for a model: all its state is in keys and values with a batch axis."""
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return False
    return {type(layer) for layer in DynamicCache(config=model.config).layers} <= _REPEATABLE


def decode_shared(model: PreTrainedModel, batch: Batch, eos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and their log-probabilities, both [R, T]; what follows a row's end is arbitrary."""
    forward = _Forward(model, DynamicCache(config=model.config))
    ids, mask = batch.padded()
    logits = forward(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0))
    forward.cache.batch_repeat_interleave(batch.samples)
    logits = logits.repeat_interleave(batch.samples, 0)
    new = int(batch.room.max())
    lengths = mask.sum(-1).repeat_interleave(batch.samples)
    visible = torch.nn.functional.pad(mask.repeat_interleave(batch.samples, 0), (0, new), value=1)
    tokens = torch.zeros(len(lengths), new, dtype=torch.long, device=ids.device)
    logprobs = torch.zeros(len(lengths), new, device=ids.device)
    rows = torch.arange(len(lengths), device=ids.device)
    running = torch.ones_like(rows, dtype=torch.bool)
    for step in range(new):
        following, logprob = batch.draw(logits, rows, step)
        tokens[rows, step], logprobs[rows, step] = following, logprob
        running &= ~torch.isin(following, eos) & (batch.room[rows] > step + 1)
        left = int(running.sum())
        if left == 0:
            break
        if left <= _DROP_BELOW * len(rows):
            keep = running.nonzero()[:, 0]
            forward.cache.batch_select_indices(keep)
            rows, running, following, visible = rows[keep], running[keep], following[keep], visible[keep]
        # A row that has ended but is still carried along must not step past the last learned position (GPT-2).
        positions = lengths[rows] + torch.clamp(batch.room[rows] - 1, max=step)
        logits = forward(following[:, None], visible[:, : mask.shape[1] + step + 1], positions[:, None])
    return tokens, logprobs


class _Forward:
    """One step of a model with its cache: logits of the last position, [rows, V]."""

    def __init__(self, model: PreTrainedModel, cache: DynamicCache) -> None:
        self.model, self.cache = model, cache
        self.accepted = inspect.signature(model.forward).parameters.keys()

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        # Models without learned or rotary positions (ALiBi) take no position ids; some compute all logits.
        optional = {"position_ids": positions, "logits_to_keep": 1}
        taken = {name: value for name, value in optional.items() if name in self.accepted}
        output = self.model(input_ids=ids, attention_mask=mask, past_key_values=self.cache, use_cache=True, **taken)
        return output.logits[:, -1]


def decode_generate(model: PreTrainedModel, batch: Batch, eos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `decode_shared`, through `model.generate`, for models whose cache cannot be repeated or thinned out."""
    ids, mask = (tensor.repeat_interleave(batch.samples, 0) for tensor in batch.padded())
    recorder = _DrawInGenerate(batch)
    with _plain_generation_config(model):
        sequences = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=int(batch.room.max()),
            eos_token_id=eos.tolist() or None,
            pad_token_id=0,
            logits_processor=LogitsProcessorList([recorder]),
        )
    return sequences[:, ids.shape[1] :], torch.stack(recorder.logprobs, 1)


class _DrawInGenerate(LogitsProcessor):
    """Draws inside `generate`, by leaving its greedy search one token to choose.

    `generate` itself samples from the global random state, and returns log-probabilities only by keeping the logits of
    every step.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(len(scores), device=scores.device)
        tokens, logprobs = self.batch.draw(scores, rows, len(self.logprobs))
        self.logprobs.append(logprobs)
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens[:, None], 0.0)


@contextmanager
def _plain_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """`generate` fills what a call leaves unset from the model's own config: repetition penalties, forced tokens …"""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
