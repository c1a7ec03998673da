"""The completion follows instructions whose following can be checked, in the manner of IFEval (2311.07911).

    {"prompt": "Praise rain in at least 50 words, without commas.", "verifier": "instructions",
     "reference": {"constraints": [{"id": "word_count", "at_least": 50}, {"id": "no_commas"}]}}

The score is the share of the constraints that are followed; with `"all": true` it is 1 if all are, else 0. The answer
names those that were. What can be asked is the table `CONSTRAINTS` of `constraints`; what counts takes `at_least`,
`at_most` or `exactly`. With `"strict": false` a constraint is followed, too, if it is without the completion's first
or last line or without asterisks, as IFEval's loose accuracy has it: models like to add "Sure, here it is:".

IFEval's own rows may be used as they are: `{"instruction_id_list": [...], "kwargs": [...]}`. They are judged as there,
but for four: sentences end at a full stop, question or exclamation mark before white space (there, by a trained
splitter), words in capitals are runs of letters and digits, asterisks that stand apart highlight nothing, and languages
are not told apart: such a row is refused.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from posttrain.errors import VerifierError, nearest
from posttrain.verifiers.constraints import (
    BOUNDS,
    CONSTRAINTS,
    COUNT,
    IFEVAL,
    RELATION,
    Constraint,
    Parameters,
    Type,
)
from posttrain.verifiers.reference import complains, fields
from posttrain.verifiers.verdict import UNSCORABLE, Verdict

MAX_LENGTH = 100_000
OPTIONS = ("strict", "all")


class Asked(NamedTuple):
    """One constraint of a reference."""

    label: str
    """Its id, with its place among those of the same id if there are several."""
    constraint: Constraint
    parameters: Parameters


def verify(completion: str, reference: Any, prompt: str = "") -> Verdict:
    asked, strict, whole = _read(reference)
    if len(completion) > MAX_LENGTH:
        return UNSCORABLE
    texts = _given(completion) if strict else _loosened(completion)
    followed = [
        one.label
        for one in asked
        if any(one.constraint.holds(text, {"prompt": prompt, **one.parameters}) for text in texts)
    ]
    share = len(followed) / len(asked)
    return Verdict(float(share == 1) if whole else share, ", ".join(followed) or None)


@complains
def validate(reference: Any) -> str | None:
    _read(reference)
    return None


def _given(*texts: str) -> list[str]:
    """Those that are not empty: nothing follows no instruction, not even to use no comma."""
    return [text for text in texts if text.strip()]


def _loosened(completion: str) -> list[str]:
    """The completion with and without its first line, its last line and its asterisks."""
    lines = completion.split("\n")
    kept = ["\n".join(part).strip() for part in (lines, lines[1:], lines[:-1], lines[1:-1])]
    return _given(*kept, *(text.replace("*", "") for text in kept))


def _read(reference: Any) -> tuple[list[Asked], bool, bool]:
    theirs = isinstance(reference, dict) and "instruction_id_list" in reference
    needed = ("instruction_id_list", "kwargs") if theirs else ("constraints",)
    given = fields(reference, "instructions", needed, OPTIONS)
    options = {key: given.get(key, key == "strict") for key in OPTIONS}
    for key, value in options.items():
        if not isinstance(value, bool):
            raise VerifierError(f"instructions: {key} must be true or false, not {value!r}")
    rows = _translated(given) if theirs else given["constraints"]
    if not isinstance(rows, list) or not rows:
        raise VerifierError(f"instructions: constraints must be a list of objects with an id, not {str(rows)[:60]!r}")
    parsed = [_parsed(row, f"constraints[{number}]") for number, row in enumerate(rows)]
    ids = [identity for identity, _ in parsed]
    return (
        [
            Asked(f"{name}[{ids[:place].count(name)}]" if ids.count(name) > 1 else name, CONSTRAINTS[name], parameters)
            for place, (name, parameters) in enumerate(parsed)
        ],
        options["strict"],
        options["all"],
    )


def _parsed(row: Any, place: str) -> tuple[str, Parameters]:
    """A row's id and its parameters, checked."""
    identity = row.get("id") if isinstance(row, dict) else None
    if not isinstance(identity, str):
        raise VerifierError(f"instructions: {place} must be an object with an id, not {str(row)[:60]!r}")
    if identity not in CONSTRAINTS:
        raise VerifierError(f"instructions: {place}: unknown constraint {identity!r}{nearest(identity, CONSTRAINTS)}")
    constraint, where = CONSTRAINTS[identity], f"instructions: {place} ({identity})"
    bounds = BOUNDS if constraint.counts else ()
    values = fields(row, where, ["id", *constraint.needs], [*constraint.takes, *bounds])
    types = {**constraint.needs, **constraint.takes, **dict.fromkeys(bounds, COUNT)}
    parameters = {key: _checked(values[key], kind, f"{where}: {key}") for key, kind in types.items() if key in values}
    if constraint.counts:
        _bounded(parameters, where)
    return identity, parameters


def _checked(value: Any, kind: Type, where: str) -> Any:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # Parquet stores integers as floats where some rows have none
    if complaint := kind.complaint(value):
        raise VerifierError(f"{where} must be {complaint}, not {value!r}")
    return value


def _bounded(parameters: Parameters, where: str) -> None:
    given = [key for key in BOUNDS if key in parameters]
    if not given:
        raise VerifierError(f"{where}: say how many: {', '.join(BOUNDS)}")
    if "exactly" in given and len(given) > 1:
        raise VerifierError(f"{where}: exactly leaves no room for {given[0]}; give one of them")
    if parameters.get("at_least", 0) > parameters.get("at_most", float("inf")):
        raise VerifierError(f"{where}: at_least={parameters['at_least']} is more than at_most={parameters['at_most']}")
    if given == ["at_least"] and parameters["at_least"] == 0:
        raise VerifierError(f"{where}: at_least=0 asks for nothing")


def _translated(given: dict[str, Any]) -> list[dict[str, Any]]:
    """IFEval's fields as ours."""
    names, values = given["instruction_id_list"], given["kwargs"]
    if not (isinstance(names, list) and isinstance(values, list) and len(names) == len(values)):
        raise VerifierError("instructions: instruction_id_list and kwargs must be lists of the same length")
    return [_ours(name, kwargs or {}, number) for number, (name, kwargs) in enumerate(zip(names, values, strict=True))]


def _ours(name: Any, kwargs: Any, number: int) -> dict[str, Any]:
    place = f"instructions: instruction_id_list[{number}]"
    if name == "language:response_language":
        raise VerifierError(f"{place}: {name} is not checked, languages are not told apart here; leave the row out")
    if name not in IFEVAL:
        raise VerifierError(f"{place}: unknown instruction {name!r}{nearest(str(name), IFEVAL)}")
    theirs, where = IFEVAL[name], f"instructions: kwargs[{number}] ({name})"
    values = fields(kwargs, where, theirs.needed)
    for key, kind in ((theirs.number, COUNT), (theirs.relation, RELATION)):
        if key:
            values[key] = _checked(values[key], kind, f"{where}: {key}")
    return theirs.ours(values)
