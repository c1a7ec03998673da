"""Reading references: they come from JSON or Parquet, so an object may arrive as JSON text, an unset field as None."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Collection
from decimal import Decimal
from typing import Any

from posttrain.errors import VerifierError, nearest


def fields(reference: Any, verifier: str, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Any]:
    """A reference that must be an object (or the JSON text of one), with its keys checked.

    Raises:
        VerifierError: it is not an object, or a key is missing or unknown; the message names the key.
    """
    if isinstance(reference, str) and reference.lstrip().startswith("{"):
        try:
            reference = json.loads(reference)
        except ValueError as error:
            raise VerifierError(f"{verifier}: the reference is not valid JSON: {error}") from error
    if not isinstance(reference, dict):
        keys = ", ".join(required)
        raise VerifierError(f"{verifier}: the reference must be an object with {keys}, not {_short(reference)}")
    # Parquet gives every row of a struct column every key, None where the row had none.
    given = {key: value for key, value in reference.items() if value is not None}
    for key in given:
        if key not in {*required, *optional}:
            remedy = nearest(key, [*required, *optional])
            raise VerifierError(f"{verifier}: unknown key {key!r} in the reference{remedy}")
    for key in required:
        if key not in given:
            raise VerifierError(f"{verifier}: the reference lacks {key!r}")
    return given


def texts(answer: Any, verifier: str) -> list[str]:
    """The accepted answers as text: one str or number, or a list of them."""
    answers = answer if isinstance(answer, list) else [answer]
    if not answers:
        raise VerifierError(f"{verifier}: the list of accepted answers is empty")
    return [_text(one, verifier) for one in answers]


def _text(answer: Any, verifier: str) -> str:
    if isinstance(answer, str) and answer.strip():
        return answer.strip()
    if isinstance(answer, int) and not isinstance(answer, bool):
        return str(answer)
    if isinstance(answer, float) and math.isfinite(answer):
        # Parquet stores a column of 5 and 0.5 as floats, so 5.0 is the 5 that was written; no exponents.
        return format(Decimal(repr(answer)), "f").removesuffix(".0")
    raise VerifierError(f"{verifier}: an answer must be non-empty text or a finite number, not {_short(answer)}")


def complains(validate: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    """Let a `validate` be written with checks that raise VerifierError; the message becomes the complaint."""

    @functools.wraps(validate)
    def checked(reference: Any) -> str | None:
        try:
            return validate(reference)
        except VerifierError as error:
            return str(error)

    return checked


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
