"""What a stage requires of its parents, checked before anything expensive. Every check answers in one line."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.policy import SHARED_FACTS
from posttrain.artifacts.problems import Problem
from posttrain.errors import ContractError

_WHY = {
    "tokenizer": "their token ids mean different things",
    "chat_template": "they would read the same messages as different prompts",
    "eos": "they would end their answers differently",
}


def agree_on_text(first: Artifact, second: Artifact, roles: tuple[str, str], override: Sequence[str] = ()) -> None:
    """Two policies that work together must share tokenizer, chat template and EOS tokens.

    Raises:
        ContractError: as `agree_on_facts`.
    """
    agree_on_facts(first.record.facts, second.record.facts, roles, override)


def agree_on_facts(
    first: Mapping[str, Any], second: Mapping[str, Any], roles: tuple[str, str], override: Sequence[str] = ()
) -> None:
    """As `agree_on_text`, of two policies' facts.

    Args:
        roles: what the two are called in the message.
        override: facts whose difference the user accepts by name.

    Raises:
        ContractError: they differ in one that is not overridden.
    """
    for fact in SHARED_FACTS:
        mine, other = first.get(fact, ""), second.get(fact, "")
        if mine != other and fact not in override:
            raise ContractError(
                f"{fact} differs between {roles[0]} ({_short(mine)}) and {roles[1]} ({_short(other)}): {_WHY[fact]}; "
                f"use policies of one family, or accept it with accept_differences=[{fact!r}]"
            )


def _short(fact: object) -> str:
    text = str(fact)
    return (text[:12] or "none") if len(text) == 64 or not text else text


def renders(chat_template: object, completion: Any, stage: str) -> None:
    """A policy that learns from messages needs a chat template to render them with.

    Args:
        chat_template: the policy's fact of that name.
        completion: one of the completions it learns from: text or messages.

    Raises:
        ContractError: messages, and no template.
    """
    if isinstance(completion, list) and not chat_template:
        raise ContractError(
            f"{stage}: data is conversational, but init has no chat template; add chat_template.jinja to the model"
        )


def enough_room(directory: Path, needed: int) -> None:
    """The disk that will hold `directory` must have `needed` bytes free.

    Raises:
        ContractError: it has not.
    """
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ContractError(
            f"{existing}: {free / 2**30:.2f} GiB free where about {needed / 2**30:.2f} GiB are needed; free some, or "
            "put the output on a larger disk"
        )


def size_of(artifact: Artifact) -> int:
    """Bytes of the artifact's content."""
    return artifact.record.size


def prompts_fit(
    problems: Sequence[Problem], lengths: Sequence[int], new_tokens: int, context: int, where: Path
) -> None:
    """Every prompt must leave room for the completion in the policy's context.

    Args:
        lengths: tokens of each problem's prompt.
        context: the policy's context in tokens; 0 = unstated, nothing is checked.

    Raises:
        ContractError: a prompt is too long; names the first such problem and how many there are.
    """
    long = [(p.id, n) for p, n in zip(problems, lengths, strict=True) if context and n + new_tokens > context]
    if long:
        raise ContractError(
            f"{where}: problem {long[0][0]!r} has {long[0][1]} prompt tokens, which with {new_tokens} new tokens "
            f"exceed the policy's context of {context} ({len(long)} such); shorten them or lower max_new_tokens"
        )
