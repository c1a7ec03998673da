"""A policy's tokenizer, and prompts as it sees them. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.artifacts.problems import Prompt
from posttrain.errors import DataError

Tokens = list[int]  # of a sequence to go on from, as a policy sees it


def load_tokenizer(directory: Path) -> Any:
    """The policy's tokenizer, padding on the left as generation needs it, with a pad token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def render(tokenizer: Any, prompt: Prompt | Tokens) -> list[int]:
    """A prompt's token ids, as TRL's trainers make them: text as it is, messages through the chat template.

    Token ids are taken as they are: text cut between tokens and tokenised anew would be other ones.
    """
    if isinstance(prompt, str):
        return list(tokenizer(text=prompt)["input_ids"])
    if prompt and isinstance(prompt[0], int):
        return list(prompt)
    if tokenizer.chat_template is None:
        raise DataError(
            "the prompt is a list of messages, but the policy's tokenizer has no chat template; "
            "write the prompt as text, or save a chat_template.jinja with the policy"
        )
    chat = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)
    return list(chat["input_ids"])


def render_all(tokenizer: Any, prompts: Sequence[Prompt | Tokens]) -> list[list[int]]:
    """As `render`, for many prompts: a fast tokenizer takes texts several times faster together than one by one."""
    if prompts and all(isinstance(prompt, str) for prompt in prompts):
        return list(tokenizer(text=list(prompts))["input_ids"])
    return [render(tokenizer, prompt) for prompt in prompts]
