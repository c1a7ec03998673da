r"""The completion matches a pattern (Python's `re`).

    {"prompt": "Write a date as YYYY-MM-DD.", "verifier": "regex", "reference": {"pattern": "\\d{4}-\\d\\d-\\d\\d"}}

The whole stripped completion must match, unless `"search": true`. `flags` is any of the letters `aimsx`. `group`
(number or name) says which part is the answer. Completions over 100,000 characters are unscorable.

A pattern such as `(a+)+b` can take for ever, and `re` cannot be interrupted from a thread. `posttrain.verifiers.verify`
runs this module in a worker process that is killed at a deadline: what is guaranteed is that such a completion becomes
unscorable in that time. Called directly, only the length is limited.
"""

from __future__ import annotations

import re
from typing import Any

from posttrain.errors import VerifierError
from posttrain.verifiers.reference import complains, fields
from posttrain.verifiers.verdict import NOT_FOUND, UNSCORABLE, Verdict

MAX_LENGTH = 100_000
FLAGS = {"a": re.ASCII, "i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}


def verify(completion: str, reference: Any, prompt: str = "") -> Verdict:
    pattern, group, search = _read(reference)
    if len(completion) > MAX_LENGTH:
        return UNSCORABLE
    text = completion.strip()
    found = pattern.search(text) if search else pattern.fullmatch(text)
    return Verdict(1.0, found[group] or "") if found else NOT_FOUND


@complains
def validate(reference: Any) -> str | None:
    pattern, _, search = _read(reference)
    if pattern.search("") if search else pattern.fullmatch(""):
        return f"regex: the pattern {pattern.pattern!r} accepts an empty completion"
    return None


def _read(reference: Any) -> tuple[re.Pattern[str], int | str, bool]:
    given = fields(reference, "regex", ["pattern"], ["flags", "group", "search"])
    text, letters, group, search = given["pattern"], given.get("flags", ""), given.get("group", 0), given.get("search")
    if not isinstance(text, str):
        raise VerifierError(f"regex: pattern must be text, not {text!r}")
    if not isinstance(letters, str) or not set(letters) <= set(FLAGS):
        raise VerifierError(f"regex: flags must be letters of {''.join(FLAGS)!r}, not {letters!r}")
    if not isinstance(search, bool | None):
        raise VerifierError(f"regex: search must be true or false, not {search!r}")
    try:
        pattern = re.compile(text, sum(FLAGS[letter] for letter in set(letters)))
    except (re.error, RecursionError, OverflowError) as error:
        raise VerifierError(f"regex: the pattern {text!r} does not compile: {error}") from error
    if group not in pattern.groupindex and not (type(group) is int and 0 <= group <= pattern.groups):
        raise VerifierError(f"regex: the pattern {text!r} has no group {group!r}")
    return pattern, group, bool(search)
