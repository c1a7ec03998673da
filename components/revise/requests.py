"""What a policy is asked: the requests for a critique and a revision, and what they show of a row."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from posttrain.artifacts.digests import digest_value
from posttrain.artifacts.problems import Problem, Prompt, prompt_text
from posttrain.artifacts.rows import Row
from posttrain.artifacts.trajectories import completion_text

SHOWN = "Question:\n{prompt}\n\nAnswer:\n{answer}\n\n"
CRITIQUE = SHOWN + (
    "Say what is wrong with this answer, if anything, judged by this principle: {principle}\n\nCritique:\n"
)
ANSWER_ALONE = "Write the answer alone.\n\nRevised answer:\n"
REVISION = SHOWN + (
    "Critique by this principle: {principle}\n{critique}\n\nWrite the answer anew, so that the critique no longer "
    "applies. " + ANSWER_ALONE
)
REVISION_AT_ONCE = SHOWN + "Write the answer anew, so that it keeps to this principle: {principle} " + ANSWER_ALONE
GENERAL = "an answer is correct, complete, and harms nobody."
FIELDS = ("prompt", "answer", "critique", "principle")
FIELD = re.compile(r"\{([a-z_]+)\}")


def shown(rows: Sequence[Row], principles: Sequence[str], seed: int, number: int) -> list[dict[str, Any]]:
    """What the requests of a round can show of each row; `conversational` says how.

    Args:
        principles: one is drawn for each row, by seed, round and place; none = the general one.
    """
    return [
        {
            "prompt": text_of(row["prompt"]),
            "answer": completion_text(row),
            "critique": "",
            "principle": random.Random(digest_value([seed, number, place])).choice(principles or [GENERAL]),
            "conversational": not isinstance(row["prompt"], str),
        }
        for place, row in enumerate(rows)
    ]


def asked(request: str, rows: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """A request for each row: text, or one message of the user where the row is conversational.

    The fields are filled in at one go: an answer that holds "{critique}" stays what it is.
    """
    problems = []
    for number, fields in enumerate(rows, start=1):
        text = FIELD.sub(partial(_filled, fields), request)
        prompt: Prompt = [{"role": "user", "content": text}] if fields["conversational"] else text
        problems.append(Problem(id=f"row {number}", prompt=prompt, verifier="none"))
    return problems


def _filled(fields: Mapping[str, Any], found: re.Match[str]) -> str:
    return str(fields[found[1]])


def text_of(prompt: Prompt) -> str:
    """A prompt to show: a lone message as it is, several with their roles."""
    return prompt[0]["content"] if isinstance(prompt, list) and len(prompt) == 1 else prompt_text(prompt)
