"""What the engines share: how much room a prompt has, what vLLM is asked for, and what a completion is. Needs no torch.

An engine is a module of this package with a function

    sample_policy(policy, prompts, decoding, settings, on_progress) -> list[list[Completion]]

that returns `decoding.samples` completions of every prompt, in the order of the prompts. What is given as token ids is
gone on from as it is. And one to sample again and again:

    sampling(policy, longest, settings) -> a context manager of a `Sampler`

where no prompt with its completion has more than `longest` tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from posttrain.artifacts.policy import eos_ids, inspect_policy
from posttrain.artifacts.problems import Prompt
from posttrain.errors import DataError, PolicyError
from posttrain.generation.decoding import Completion, Decoding, Finish
from posttrain.generation.tokenizer import Tokens, load_tokenizer, render_all

OnProgress = Callable[[int, int], None]


class Sampler(Protocol):
    """A loaded policy: `decoding.samples` completions of every sequence of token ids, in their order.

    Args:
        stops: tokens that end a completion beside EOS, and stay part of it.
        most: new tokens that each completion may have.
    """

    def __call__(
        self, prompts: Sequence[Tokens], decoding: Decoding, stops: Sequence[int], most: Sequence[int]
    ) -> list[list[Completion]]: ...


# A completion before it is read: its tokens, the EOS included, and their log-probabilities.
Drawn = tuple[list[int], list[float]]


@dataclass(frozen=True)
class Asked:
    """What vLLM is asked for, in this process or on a server: token ids in, token ids and log-probabilities out.

    Its tokenizer, chat template, generation config and idea of an end take no part.
    """

    tokenizer: Any
    prompts: list[list[int]]
    rooms: list[int]
    eos: list[int]
    decoding: Decoding
    stops: Sequence[int] = ()

    @classmethod
    def of(
        cls,
        directory: Path,
        prompts: Sequence[Prompt | Tokens],
        decoding: Decoding,
        stops: Sequence[int] = (),
        most: Sequence[int] = (),
    ) -> Asked:
        """The prompts as the policy in `directory` sees them; `stops` and `most` as `Sampler` has them.

        Raises:
            DataError: a prompt is empty, or leaves no room for a new token in the policy's context.
            PolicyError: it is not a policy that may be loaded.
        """
        context = int(inspect_policy(directory)["context"])
        tokenizer = load_tokenizer(directory)
        rendered = render_all(tokenizer, prompts)
        ends = {*eos_ids(directory), tokenizer.eos_token_id} - {None}
        return cls(
            tokenizer,
            rendered,
            rooms(rendered, context or None, most or [decoding.max_new_tokens] * len(rendered)),
            sorted(ends),
            decoding,
            stops,
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that may come of it."""
        return max(len(prompt) + room for prompt, room in zip(self.prompts, self.rooms, strict=True))

    def parameters(self, index: int) -> dict[str, Any]:
        """vLLM's sampling parameters for the prompt at `index`.

        Sample i of a prompt is drawn with its seed + i by vLLM itself, so the draws do not depend on what else is
        sampled, and more samples extend fewer. All that a server could fill in from a generation config is given.
        """
        greedy = self.decoding.temperature == 0
        return {
            "n": 1 if greedy else self.decoding.samples,  # vLLM refuses to repeat itself
            "seed": None if greedy else request_seed(self.decoding.seed, index),
            "max_tokens": self.rooms[index],
            "temperature": self.decoding.temperature,
            "top_p": self.decoding.top_p,
            "top_k": self.decoding.top_k,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": sorted({*self.eos, *self.stops}),
            "ignore_eos": True,  # vLLM's own idea of it
            "logprobs": 0,  # of the drawn token alone
        }

    def completions(self, drawn: Iterable[Drawn]) -> list[Completion]:
        """One prompt's completions from what was drawn for it."""
        completions = completions_of(drawn, set(self.eos), self.tokenizer, self.stops)
        return completions * self.decoding.samples if self.decoding.temperature == 0 else completions


def request_seed(seed: int, index: int) -> int:
    """The seed of the prompt at `index`: 52 bits, so that JSON's doubles keep it."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0]) >> 12


def rooms(rendered: Sequence[Sequence[int]], context: int | None, most: Sequence[int]) -> list[int]:
    """How many new tokens each prompt may get: as many as `most` says, or fewer where the policy's context ends first.

    Raises:
        DataError: a prompt is empty, or leaves no room at all.
    """
    return [_room(index, len(tokens), context, most[index]) for index, tokens in enumerate(rendered)]


def _room(index: int, length: int, context: int | None, new_tokens: int) -> int:
    if length == 0:
        raise DataError(f"prompt {index}: no tokens; give it at least one character")
    if context is None:
        return new_tokens
    if length >= context:
        raise DataError(
            f"prompt {index}: {length} tokens leave no room for a new one in the policy's context of {context}; "
            "shorten the prompt, or use a policy with a longer context"
        )
    return min(new_tokens, context - length)


def completions_of(
    drawn: Iterable[Drawn], eos: set[int], tokenizer: Any, stops: Collection[int] = ()
) -> list[Completion]:
    """Completions from tokens, each of which ends with its first EOS or stop, or at the end of its room.

    Args:
        stops: tokens at which sampling stopped, too; they stay part of the completion.

    Raises:
        PolicyError: a log-probability is not finite.
    """
    rows = list(drawn)
    if not all(map(math.isfinite, (logprob for _, logprobs in rows for logprob in logprobs))):
        raise PolicyError("the policy's logits are NaN or infinite: its training diverged; use an earlier checkpoint")
    ends = [tokens[-1] for tokens, _ in rows]
    finishes: list[Finish] = ["eos" if end in eos else "stop" if end in stops else "length" for end in ends]
    # An EOS named by the generation config alone need not be a special token, so it is cut rather than skipped.
    texts = tokenizer.batch_decode(
        [tokens[:-1] if finish == "eos" else tokens for (tokens, _), finish in zip(rows, finishes, strict=True)],
        skip_special_tokens=True,
    )
    return [
        Completion(text, tokens, logprobs, finish)
        for text, (tokens, logprobs), finish in zip(texts, rows, finishes, strict=True)
    ]
