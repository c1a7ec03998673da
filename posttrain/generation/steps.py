"""A solution cut into steps, in tokens. Needs no torch.

Prompt and completion are tokenised apart, because a policy's own tokens never join with its prompt's; a completion of
messages goes on from the template's generation prompt. The completion is tokenised whole and cut between tokens: a step
ends with the token that its separator ends in, so every prefix is a prefix of one sequence, as the policy saw it. A
prefix tokenised by itself would not be (a `\\n\\n` that is one token, cut after its first half).
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from posttrain.artifacts.problems import Prompt
from posttrain.errors import DataError
from posttrain.generation.tokenizer import render


@dataclass(frozen=True)
class Steps:
    """Token ids of prompt and completion, and where its steps end."""

    ids: list[int]
    start: int
    """Tokens of the prompt."""
    ends: list[int]
    """Tokens up to the end of each step; the last one ends with the completion."""
    texts: list[str]
    """The steps; together they are the completion."""

    def prefix(self, depth: int) -> list[int]:
        """Prompt and the first `depth` steps."""
        return self.ids[: self.ends[depth - 1] if depth else self.start]

    def shortened(self, depth: int) -> Steps:
        """Only the first `depth` steps."""
        return Steps(self.prefix(depth), self.start, self.ends[:depth], self.texts[:depth])


def split_steps(tokenizer: Any, prompt: Prompt, completion: str, separator: str) -> Steps:
    """Cut a completion after each separator; what follows the last one is a step, too.

    Raises:
        DataError: the tokenizer cannot say where its tokens are in the text.
    """
    return _cut(tokenizer, prompt, completion, [found.end() for found in re.finditer(re.escape(separator), completion)])


def join_steps(tokenizer: Any, prompt: Prompt, steps: Sequence[str], separator: str) -> Steps:
    """Steps as they are given; one that does not end with the separator gets it, but for the last.

    Two that end within one token are one to a policy, and have the same end.

    Raises:
        DataError: the tokenizer cannot say where its tokens are in the text, or the steps hold no token.
    """
    joined = [step if step.endswith(separator) else step + separator for step in steps[:-1]] + list(steps[-1:])
    before, ids, places = _tokenised(tokenizer, prompt, "".join(joined))
    if not ids:
        raise DataError(f"steps without a token: {joined!r}; leave the row out")
    ends = [max(1, _tokens_to(boundary, places)) for boundary in accumulate(map(len, joined))]
    return Steps(before + ids, len(before), [len(before) + end for end in ends], joined)


def _cut(tokenizer: Any, prompt: Prompt, completion: str, boundaries: Iterable[int]) -> Steps:
    before, ids, places = _tokenised(tokenizer, prompt, completion)
    if not ids:
        return Steps(before, len(before), [], [])
    ends = sorted({*(_tokens_to(boundary, places) for boundary in boundaries), len(ids)} - {0})
    characters = [0, *(places[end - 1][1] for end in ends[:-1]), len(completion)]
    texts = [completion[start:end] for start, end in pairwise(characters)]
    return Steps(before + ids, len(before), [len(before) + end for end in ends], texts)


def _tokenised(tokenizer: Any, prompt: Prompt, completion: str) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Token ids of prompt and completion, and where in the completion each of its tokens stands."""
    if not tokenizer.is_fast:
        raise DataError("steps need a fast tokenizer, which says where tokens are in the text; save a tokenizer.json")
    encoded = tokenizer(text=completion, add_special_tokens=False, return_offsets_mapping=True)
    return render(tokenizer, prompt), list(encoded["input_ids"]), encoded["offset_mapping"]


def _tokens_to(boundary: int, places: Sequence[tuple[int, int]]) -> int:
    """How many tokens begin before a character; of one that is written in several tokens, all."""
    return bisect_left(places, boundary, key=lambda place: place[0])


def separating_tokens(tokenizer: Any, separator: str) -> list[int]:
    """Ids of all tokens whose text holds the separator: sampling that stops at them stops at the end of a step.

    Raises:
        DataError: there are none, as for a separator of several tokens.
    """
    ids = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    texts = tokenizer.batch_decode([[token] for token in ids])
    found = [token for token, text in zip(ids, texts, strict=True) if separator in text]
    if not found:
        raise DataError(f"no token of the policy holds the separator {separator!r}; choose one of a single token")
    return found


# A solution's score from those of its steps, each in [0, 1].
AGGREGATES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "min": min,  # as strong as its weakest step (as in 2312.08935)
    "product": math.prod,
    "mean": lambda scores: math.fsum(scores) / len(scores),
    "last": lambda scores: scores[-1],
}
