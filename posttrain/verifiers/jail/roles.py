"""What a child does once it is behind its wall: it runs a program, or serves a program to tests, or is the tests.

Its descriptors are 0, 1 and 2, and for the last two roles 3 and 4, from and to the other.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import sys
import threading
import traceback
from types import ModuleType
from typing import Any

from posttrain.verifiers.jail.peer import Program, Tests, Unsupported

PASSED, FAILED, UNSUITABLE = 10, 11, 12
"""Exit codes of tests; not 0, with which a process also ends by accident."""
STREAMS = (
    (0, "stdin", "r", "surrogateescape"), (1, "stdout", "w", "strict"), (2, "stderr", "w", "backslashreplace"),
)  # fmt: skip


def play(job: dict[str, Any]) -> None:
    """Do what the job says; never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    sys.argv[:] = ["program.py"]
    for number, name, mode, errors in STREAMS:
        # Line by line where a crash may come in between, as Python's own.
        stream = open(number, mode, 1 if name == "stderr" else -1, "utf-8", errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    {"run": _run, "serve": _serve, "test": _test}[job["role"]](job)


def _run(job: dict[str, Any]) -> None:
    _finish(_execute(job["program"], "__main__"))


def _serve(job: dict[str, Any]) -> None:
    """Run the program, then answer what tests ask of it. Its own `if __name__ == "__main__"` is not entered."""
    code = _execute(job["program"], "program")
    if code is not None:
        _finish(code)
    Program(3, 4, vars(sys.modules["program"])).serve()
    os._exit(0)


def _execute(program: str, name: str) -> int | None:
    """Run the program as a module; its exit code, if it raised or exited."""
    module = sys.modules["__main__"] = sys.modules[name] = ModuleType(name)
    try:
        exec(compile(program, "program.py", "exec"), vars(module))
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return None


def _finish(code: int | None) -> None:
    """What the interpreter does at its end and a program can see, without taking the interpreter down."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for the program's threads
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        code = code or 1
    finally:
        os._exit(code or 0)


def _test(job: dict[str, Any]) -> None:
    """Run the tests in order, up to the first that fails; with `every` all of them, which passes if they all do."""
    program, every, code = Tests(3, 4), job.get("every", False), PASSED
    try:
        found = program.ask("names", tuple(job["names"]))
        # Taken out by name: a program that answers with `abs` or `__builtins__` as well must not be believed.
        namespace: dict[str, Any] = {name: found[name] for name in job["names"] if name in found}
        namespace |= {name: importlib.import_module(name) for name in job["modules"]}
        namespace["__name__"] = "tests"
        for name in job["entry"]:
            if name not in namespace:
                raise NameError(f"the program does not define {name!r}")
        if job["entry"]:
            namespace["candidate"] = namespace[job["entry"][0]]  # HumanEval's word
    except BaseException as error:
        _fail("", error, FAILED)
    for number, test in enumerate(job["tests"]):
        try:
            exec(compile(test, f"tests[{number}]", "exec"), namespace)
        except BaseException as error:
            # With `every` the program imports nothing, so that it is the tests that want what is not here.
            if isinstance(error, Unsupported) or (every and isinstance(error, ImportError)):
                _fail(f"tests[{number}]", error, UNSUITABLE)
            if not every:
                _fail(f"tests[{number}]", error, FAILED)
            code = FAILED
    os._exit(code)


def _fail(place: str, error: BaseException, code: int) -> None:
    message = " ".join(f"{place} {type(error).__name__}: {error}".split())[:500]
    os.write(2, message.encode("utf-8", "replace"))
    os._exit(code)
