"""Sampling with Transformers: load a policy, render prompts, draw completions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.policy import inspect_policy
from posttrain.artifacts.problems import Prompt
from posttrain.generation.batch import Batch
from posttrain.generation.decode import can_repeat_cache, decode_generate, decode_shared
from posttrain.generation.decoding import Completion, Decoding
from posttrain.generation.engine import OnProgress, Sampler, completions_of, rooms
from posttrain.generation.tokenizer import Tokens, load_tokenizer, render_all

if TYPE_CHECKING:
    from posttrain.generation.settings import SamplingSettings


def sample_policy(
    policy: Artifact,
    prompts: Sequence[Prompt | Tokens],
    decoding: Decoding,
    settings: SamplingSettings,
    on_progress: OnProgress,
) -> list[list[Completion]]:
    """As every engine (`posttrain.generation.engine`)."""
    model, tokenizer = load_policy(policy.path)
    return sample(model, tokenizer, prompts, decoding, batch_rows=settings.batch_rows, on_progress=on_progress)


@contextmanager
def sampling(policy: Artifact, longest: int, settings: SamplingSettings) -> Iterator[Sampler]:
    """As every engine (`posttrain.generation.engine`)."""
    model, tokenizer = load_policy(policy.path)

    def again(
        prompts: Sequence[Tokens], decoding: Decoding, stops: Sequence[int], most: Sequence[int]
    ) -> list[list[Completion]]:
        rows = settings.batch_rows
        return sample_tokens(model, tokenizer, list(prompts), decoding, stops=stops, most=most, batch_rows=rows)

    yield again


def load_policy(
    directory: Path, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A policy ready to sample from, on `device` (a GPU if there is one): as stored on a GPU, float32 on a CPU.

    Raises:
        PolicyError: it is not a policy that may be loaded.
    """
    inspect_policy(Path(directory))
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32 if place.type == "cpu" else "auto",
        trust_remote_code=False,
        use_safetensors=True,
    )
    return model.to(place).eval(), load_tokenizer(Path(directory))


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt | Tokens],
    decoding: Decoding,
    *,
    batch_rows: int = 512,
    on_progress: OnProgress | None = None,
) -> list[list[Completion]]:
    """`decoding.samples` completions of every prompt, in the order of the prompts; see `sample_tokens`."""
    rendered = render_all(tokenizer, prompts)
    return sample_tokens(model, tokenizer, rendered, decoding, batch_rows=batch_rows, on_progress=on_progress)


def sample_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rendered: list[list[int]],
    decoding: Decoding,
    *,
    stops: Sequence[int] = (),
    most: Sequence[int] = (),
    batch_rows: int = 512,
    on_progress: OnProgress | None = None,
) -> list[list[Completion]]:
    """`decoding.samples` continuations of every sequence of token ids, in their order.

    The random numbers belong to (seed, prompt's index, sample, position), not to the batch: `batch_rows` (prompts x
    samples decoded together) changes speed and memory, and completions only where it changes a logit's last bits.

    Args:
        stops: tokens that end a continuation beside EOS, and stay part of it.
        most: new tokens that each continuation may have, where they are fewer than `decoding` allows.
        on_progress: called with (prompts done, prompts in all) after each batch.

    Raises:
        DataError: a prompt is empty, or leaves no room for a new token in the policy's context.
        PolicyError: the policy's logits are not finite.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = rooms(rendered, context, most or [decoding.max_new_tokens] * len(rendered))
    decode = decode_shared if can_repeat_cache(model) else decode_generate
    eos = _eos_ids(model, tokenizer)
    ends = torch.tensor(sorted({*eos.tolist(), *stops}), dtype=torch.long, device=model.device)
    results: list[list[Completion]] = [[] for _ in rendered]
    done = 0
    with evaluating(model), torch.inference_mode():
        for members in _batches(rendered, room, max(1, batch_rows // decoding.samples), decode is decode_generate):
            for start in range(0, decoding.samples, batch_rows):
                samples = range(start, min(start + batch_rows, decoding.samples))
                batch = Batch.of(members, samples, rendered, room, decoding, model.device)
                drawn = _completions(*decode(model, batch, ends), batch, ends, set(eos.tolist()), tokenizer)
                for row, completion in enumerate(drawn):
                    results[members[row // len(samples)]].append(completion)
            done += len(members)
            if on_progress is not None:
                on_progress(done, len(rendered))
    return results


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    stated = model.generation_config.eos_token_id
    if stated is None:
        stated = model.config.get_text_config().eos_token_id
    ids = {*(stated if isinstance(stated, list) else [stated]), tokenizer.eos_token_id} - {None}
    return torch.tensor(sorted(ids), dtype=torch.long, device=model.device)


def _batches(rendered: list[list[int]], rooms: list[int], size: int, equal_room: bool) -> Iterator[list[int]]:
    """Prompts by index, `size` at a time, of like length, so that little is padded.

    `equal_room`: `generate` has one limit of new tokens for all rows.
    """
    order = sorted(range(len(rendered)), key=lambda index: len(rendered[index]))
    for _, group in itertools.groupby(order, key=lambda index: rooms[index] if equal_room else 0):
        members = list(group)
        for start in range(0, len(members), size):
            yield members[start : start + size]


def _completions(
    tokens: torch.Tensor,
    logprobs: torch.Tensor,
    batch: Batch,
    ends: torch.Tensor,
    eos: set[int],
    tokenizer: PreTrainedTokenizerBase,
) -> list[Completion]:
    """The completions of [R, T] draws, each cut at its first end (EOS or a stop), or at the end of its room."""
    hit = torch.isin(tokens, ends)
    first = torch.where(hit.any(-1), hit.int().argmax(-1) + 1, tokens.shape[1])
    lengths = torch.minimum(first, batch.room).tolist()
    drawn = zip(tokens.tolist(), logprobs.tolist(), lengths, strict=True)
    rows = [(row[:length], values[:length]) for row, values, length in drawn]
    return completions_of(rows, eos, tokenizer, set(ends.tolist()))


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout, and without the gradient checkpointing that would switch the cache off."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
