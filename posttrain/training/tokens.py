"""Rows as tokens: exactly those that `trl.SFTTrainer` would make of them, for what must line up with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posttrain.errors import ContractError

if TYPE_CHECKING:
    from posttrain.generation.scoring import Encoded


def training_tokens(
    tokenizer: Any, rows: Sequence[Mapping[str, Any]], max_length: int
) -> tuple[list[Encoded], list[int]]:
    """The tokens of prompt-completion rows, cut at `max_length` as TRL cuts them, and how many each row had.

    A row whose prompt alone fills `max_length` is left with no completion.

    Raises:
        DataError: no token stands before a completion.
    """
    from posttrain.generation.scoring import Encoded

    encoded = _encoded(tokenizer, rows)
    kept = [Encoded(row.ids[:max_length], min(row.start, max_length)) for row in encoded]
    return kept, [len(row.ids) for row in encoded]


def cut_completions(tokenizer: Any, rows: Sequence[Mapping[str, Any]], tokens: int) -> tuple[list[Encoded], list[int]]:
    """As `training_tokens`, but of completions as rollouts: cut after so many tokens, with no EOS unless sampled."""
    encoded = _encoded(tokenizer, rows, as_sampled=True)
    kept = [row._replace(ids=row.ids[: row.start + tokens]) for row in encoded]
    return kept, [len(row.completion) for row in encoded]


def _encoded(tokenizer: Any, rows: Sequence[Mapping[str, Any]], as_sampled: bool = False) -> list[Encoded]:
    from posttrain.generation.scoring import Text, encode_all

    if tokenizer.eos_token is None:
        raise ContractError("the policy's tokenizer has no EOS token to end answers with; set its eos_token")
    texts = [
        Text(row["prompt"], row["completion"], ended=not (as_sampled and row.get("finish") == "length")) for row in rows
    ]
    return encode_all(tokenizer, texts, 0)
