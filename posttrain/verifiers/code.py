r"""The completion is a Python program that passes every test; it runs in a sandbox (`sandbox`).

    {"prompt": "Read two numbers, print their sum.", "verifier": "code",
     "reference": {"tests": [{"input": "2 3\n", "output": "5\n"}, {"input": "-1 1\n", "output": "0\n"}]}}
    {"prompt": "Write add(a, b).", "verifier": "code",
     "reference": {"tests": ["assert add(2, 3) == 5", "assert add(-1, 1) == 0"], "entry": "add"}}

The program is the last block fenced as ```` ```python ````, else the whole completion. A case passes if the program
exits with 0 and its output is the expected one, white space at the ends of lines and of the text aside. Other tests are
Python statements, run in order in one namespace after the program; one that raises has failed. `entry` names what they
take from the program, a function or a list of names, and is also called `candidate`; without it, that is every name
that the tests use and do not define, but for built-in ones and modules (`math.isclose` is always the real one).
`time_limit` is in seconds of CPU for one case or for all statements (6), `memory_limit` in MiB (512).

What a program cannot do is pass without being right. Expected outputs are compared here, and statements run in a
process that the program never had (`jail.peer`): it is called there, and answers with plain data. Printing "PASS",
exiting with 0, replacing `==` or `AssertionError`, tracing, or writing to every descriptor are wrong answers. It
follows that an object of the program equals no data, nor can be added to any, that generators and other objects work
from afar, and that a statement may hand over plain data and functions only.

Out of reach: what a test itself asks of the program. `f(2) == Point(1, 2)` lets the program's `Point` decide,
`f(2).startswith("a")` whatever object f returns (`f(2)[:1] == "a"` does not), and `"x" in f(2)` is true of a generator
of everything. A case shows its input, as it must: a program can hold the answers to inputs it was trained on.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from posttrain.errors import VerifierError
from posttrain.verifiers import sandbox
from posttrain.verifiers.jail.roles import PASSED, UNSUITABLE
from posttrain.verifiers.reference import complains, fields
from posttrain.verifiers.sandbox import Limits
from posttrain.verifiers.verdict import NOT_FOUND, UNSCORABLE, Verdict
from posttrain.verifiers.worker import AT_ONCE

MAX_LENGTH = 100_000
TIME_LIMIT_S, MOST_TIME_S = 6.0, 600.0
MEMORY_LIMIT_MIB, LEAST_MEMORY_MIB, MOST_MEMORY_MIB = 512, 32, 1 << 16

_FENCE = re.compile(r" {0,3}```+[ \t]*(\w*)[^`\n]*")
_LABELS = ("python", "python3", "py")


@dataclass(frozen=True)
class Cases:
    """What the program reads, and what it must then write."""

    pairs: list[tuple[str, str]]

    def hold(self, program: str, limits: Limits) -> bool:
        return all(self._holds(program, given, expected, limits) for given, expected in self.pairs)

    def _holds(self, program: str, given: str, expected: str, limits: Limits) -> bool:
        most = limits.output_bytes + 2 * len(expected.encode())
        ended = sandbox.run(program, given.encode(), replace(limits, output_bytes=most))
        written = ended.stdout.decode(errors="replace")
        return ended.status == 0 and not ended.reason and _lines(written) == _lines(expected)

    def complaint(self, limits: Limits) -> str | None:
        empty = all(not _lines(expected) for _, expected in self.pairs)
        return "code: an empty program passes the tests: every output is empty" if empty else None


@dataclass(frozen=True)
class Statements:
    """Tests as code, and what they take from the program."""

    tests: list[str]
    names: list[str]
    """What they use of the program."""
    entry: list[str]
    """What it must define."""
    modules: list[str]
    """What they use of the standard library without importing it."""

    def hold(self, program: str, limits: Limits) -> bool:
        ended = sandbox.run_tests(program, asdict(self), limits)
        if ended.status == UNSUITABLE:
            raise RuntimeError(f"code: {ended.stderr.decode()}")
        return ended.status == PASSED

    def complaint(self, limits: Limits) -> str | None:
        """Tries the tests on a program that does nothing."""
        idle = "".join(f"def {name}(*_, **__): raise NotImplementedError\n" for name in self.names)
        ended = sandbox.run_tests(idle, {**asdict(self), "every": True}, limits)
        if ended.status == UNSUITABLE:
            return f"code: {ended.stderr.decode()}"
        if ended.status == PASSED:
            return "code: a program that does nothing passes the tests; is there no assert, or a check nobody calls?"
        return None


def verify(completion: str, reference: Any, prompt: str = "") -> Verdict:
    tests, limits = _read(reference)
    program = find(completion)
    if not program.strip():
        return NOT_FOUND
    if len(program) > MAX_LENGTH:
        return UNSCORABLE
    return Verdict(float(tests.hold(program, limits)), program.strip())


def validate(reference: Any) -> str | None:
    if complaint := _complaint(reference):
        return complaint
    tests, limits = _read(reference)
    return tests.complaint(limits)  # raises NotStarted where nothing can be isolated, which no reference mends


def at_once() -> int:
    """How many programs run at the same time."""
    return AT_ONCE


@complains
def _complaint(reference: Any) -> str | None:
    _read(reference)
    return None


def find(completion: str) -> str:
    """The program in a completion; a last block that is never closed runs to the end."""
    found, label, block = None, None, list[str]()
    for line in completion.split("\n"):
        fence = _FENCE.fullmatch(line.rstrip())
        if label is None and fence:
            label, block = fence[1].lower(), []
        elif fence and not fence[1]:
            found, label, block = (block if label in _LABELS else found), None, []
        else:
            block.append(line)
    if label in _LABELS:
        found = block
    return completion if found is None else "\n".join(found)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")] if text.strip() else []


def _read(reference: Any) -> tuple[Cases | Statements, Limits]:
    given = fields(reference, "code", ["tests"], ["entry", "time_limit", "memory_limit"])
    tests, entry = given["tests"], _entry(given.get("entry", []))
    seconds = _number(given, "time_limit", TIME_LIMIT_S, 0.1, MOST_TIME_S, "seconds")
    memory = _number(given, "memory_limit", MEMORY_LIMIT_MIB, LEAST_MEMORY_MIB, MOST_MEMORY_MIB, "MiB")
    limits = Limits(cpu_s=seconds, memory_mib=int(memory))
    if not isinstance(tests, list) or not tests:
        raise VerifierError(f"code: tests must be a list of cases or of statements, not {str(tests)[:60]!r}")
    if all(isinstance(test, str) for test in tests):
        return _statements(tests, entry), limits
    if all(isinstance(test, dict) for test in tests):
        return Cases([_case(number, test) for number, test in enumerate(tests)]), limits
    raise VerifierError("code: tests must be all cases (objects) or all statements (text)")


def _entry(entry: Any) -> list[str]:
    names = entry if isinstance(entry, list) else [entry]
    for name in names:
        if not (isinstance(name, str) and name.isidentifier()):
            raise VerifierError(f"code: entry must be the name of a function or a list of names, not {name!r}")
    return names


def _number(given: dict[str, Any], key: str, usual: float, least: float, most: float, unit: str) -> float:
    value = given.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise VerifierError(f"code: {key} must be a number of {unit} from {least:g} to {most:g}, not {value!r}")
    return value


def _case(number: int, test: dict[str, Any]) -> tuple[str, str]:
    case = fields(test, f"code: tests[{number}]", ["output"], ["input"])
    pair = case.get("input", ""), case["output"]
    for key, text in zip(("input", "output"), pair, strict=True):
        if not isinstance(text, str):
            raise VerifierError(f"code: tests[{number}]: {key} must be text, not {text!r}")
    return pair


def _statements(tests: list[str], entry: list[str]) -> Statements:
    """Tests, and where the names they use come from.

    Never from the program if they are built in or modules: `abs(f(2) - 1.4) < 1e-6` would ask the program's own `abs`.
    """
    used, defined, bases = set[str](), set[str](), set[str]()
    for number, test in enumerate(tests):
        try:
            table, tree = symtable.symtable(test, f"tests[{number}]", "exec"), ast.parse(test)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise VerifierError(f"code: tests[{number}] is not Python: {error}") from error
        symbols = [symbol for scope in _scopes(table) for symbol in scope.get_symbols()]
        used |= {symbol.get_name() for symbol in symbols if symbol.is_global() and symbol.is_referenced()}
        defined |= {one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported()}
        attributes = (node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute))
        bases |= {value.id for value in attributes if isinstance(value, ast.Name)}
    free = used - defined - set(entry) - set(dir(builtins))
    modules = free & bases & sys.stdlib_module_names
    names = free - modules
    if not entry and not names:
        raise VerifierError("code: the tests use nothing of the program, so that it would not matter")
    for name in sorted(names - {"candidate"}) if entry else ():
        raise VerifierError(f"code: the tests use {name!r}, which neither they nor entry define; add it to entry")
    return Statements(tests, entry or sorted(names), entry, sorted(modules))


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)
