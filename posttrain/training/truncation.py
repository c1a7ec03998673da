"""How many rows a trainer would cut or leave out, known before it is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.errors import ContractError


def refuse_cut(
    lengths: Sequence[int],
    limit: int,
    max_share: float,
    option: str = "max_length",
    remedy: str = "max_truncated to train on cut rows",
) -> int:
    """How many rows are over a limit of tokens; too many are a mistake.

    Args:
        lengths: tokens of each row.
        option: the setting that the limit is, and `remedy` the one that allows more such rows.

    Raises:
        ContractError: more than a share `max_share` are.
    """
    over = [index for index, length in enumerate(lengths) if length > limit]
    if len(over) > max_share * len(lengths):
        raise ContractError(
            f"data row {over[0] + 1} has {lengths[over[0]]} tokens, over {option}={limit} ({len(over)} of "
            f"{len(lengths)} rows, allowed {max_share:.1%}); raise {option}, or {remedy}"
        )
    return len(over)


def count_truncated(
    rows: list[dict[str, Any]], tokenizer: Any, max_length: int | None, context: int, max_share: float
) -> int:
    """Rows longer than `max_length` tokens, which TRL cuts.

    Args:
        rows: supervised rows (prompt + completion, messages, or text), or pairs (prompt + chosen + rejected).
        context: the policy's context in tokens, 0 = unstated.
        max_share: the largest share of cut rows that is not an error.

    Raises:
        ContractError: the share is larger, a row that is not cut exceeds the context, or there is no EOS token.
    """
    if tokenizer.eos_token is None:
        raise ContractError("the policy's tokenizer has no EOS token to end answers with; set its eos_token")
    lengths = pair_lengths(rows, tokenizer) if "chosen" in rows[0] else token_lengths(rows, tokenizer)
    limit = max_length or max(lengths)
    cut = refuse_cut(lengths, limit, max_share)
    longest = min(max(lengths), limit)
    if context and longest > context:
        row = lengths.index(max(lengths)) + 1
        raise ContractError(
            f"data row {row} needs {longest} tokens, over the policy's context of {context}; set max_length={context}"
        )
    return cut


def token_lengths(rows: list[dict[str, Any]], tokenizer: Any) -> list[int]:
    """Tokens of each supervised row as TRL makes them; all rows in one call, several times faster than one by one."""
    if isinstance(next(iter(rows[0].values())), list):
        chats = [row["messages"] if "messages" in row else row["prompt"] + row["completion"] for row in rows]
        encoded = tokenizer.apply_chat_template(chats, tokenize=True, return_dict=True)
        return [len(ids) for ids in encoded["input_ids"]]
    texts = ["".join(row.values()) for row in rows]
    # TRL ends a text with the EOS token, unless it does already.
    texts = [text if text.endswith(tokenizer.eos_token) else text + tokenizer.eos_token for text in texts]
    return [len(ids) for ids in tokenizer(texts)["input_ids"]]


def pair_lengths(rows: list[dict[str, Any]], tokenizer: Any) -> list[int]:
    """Tokens of the longer side of each pair, with its prompt."""
    chosen, rejected = (
        token_lengths([{"prompt": row["prompt"], "completion": row[side]} for row in rows], tokenizer)
        for side in ("chosen", "rejected")
    )
    return [max(pair) for pair in zip(chosen, rejected, strict=True)]
