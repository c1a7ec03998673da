"""The completion is the answer, character for character.

    {"prompt": "The capital of France, one word:", "verifier": "exact", "reference": "Paris"}

White space around the completion is ignored. `{"answer": "Paris", "casefold": true}` ignores case as well; a list
accepts any of its answers. Numbers compare as text: use `numeric` where 5 and 5.0 are the same.
"""

from __future__ import annotations

from typing import Any

from posttrain.errors import VerifierError
from posttrain.verifiers.reference import complains, fields, texts
from posttrain.verifiers.verdict import NOT_FOUND, Verdict


def verify(completion: str, reference: Any, prompt: str = "") -> Verdict:
    answers, casefold = _read(reference)
    given = _canonical(completion, casefold)
    if not given:
        return NOT_FOUND
    return Verdict(float(given in {_canonical(answer, casefold) for answer in answers}), given)


@complains
def validate(reference: Any) -> str | None:
    _read(reference)
    return None


def _read(reference: Any) -> tuple[list[str], bool]:
    if not isinstance(reference, dict):
        return texts(reference, "exact"), False
    given = fields(reference, "exact", ["answer"], ["casefold"])
    casefold = given.get("casefold", False)
    if not isinstance(casefold, bool):
        raise VerifierError(f"exact: casefold must be true or false, not {casefold!r}")
    return texts(given["answer"], "exact"), casefold


def _canonical(text: str, casefold: bool) -> str:
    return text.strip().casefold() if casefold else text.strip()
