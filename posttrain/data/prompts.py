"""What a prompt must be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from posttrain.errors import DataError


def prompt_complaint(prompt: Any) -> str | None:
    """What is wrong with a prompt (text or messages), or None."""
    if isinstance(prompt, str):
        return None if prompt.strip() else f"prompt={prompt!r} is empty; give text or drop the row"
    if isinstance(prompt, list):
        return messages_complaint(prompt, "prompt")
    return f"prompt={prompt!r} is neither text nor a list of messages"


def messages_complaint(messages: list[Any], column: str) -> str | None:
    """What is wrong with a list of messages, or None."""
    if not messages:
        return f"{column}=[] is empty; give at least one message"
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return f"{column}[{number}]={message!r} has no role; use {{'role': …, 'content': …}}"
        if not isinstance(message.get("content"), str):
            return f"{column}[{number}].content={message.get('content')!r} is not text"
    return None


def refuse_mixture(values: Iterable[tuple[str, Any]], column: str) -> None:
    """A column of a table has one type: all text or all messages.

    Args:
        values: (place, value) of every row.

    Raises:
        DataError: a row differs from the first.
    """
    first: type | None = None
    for place, value in values:
        first = first or type(value)
        if type(value) is not first:
            raise DataError(
                f"{place}: {column!r} is {type(value).__name__} where earlier rows have {first.__name__}; use text or "
                "messages throughout"
            )
