"""Runs untrusted Python programs: no network, no files, no other process, and an end to everything.

    >>> run("print(int(input()) * 2)", stdin=b"21").stdout
    b'42\n'

A program is one process (threads, no children) forked from a zygote (`jail.zygote`), behind the strongest of these
walls that the machine offers; which one is tried out once, on a trial program, and `wall()` names it:

    namespaces  its own root, network, users and processes, and a system-call filter on top
    landlock    the filter, and files limited by Landlock: for pods that may not make user namespaces (Linux 6.2)
    seccomp     the filter alone, which then allows no files at all: only what the zygote imported can be imported

Without any of them nothing runs. `POSTTRAIN_SANDBOX` names one, or `limits`, which is *no* isolation: resource limits
and a process group, for programs you would run yourself. What a program may do is the same behind all three, but for
files, so that a verdict does not depend on the machine. Root is not needed, and given up where it is had.

Out of reach: faults of the kernel and of the processor, timing that one program can measure of another, the load that
a program within its limits puts on the machine. A user other than root whose kernel is older than 5.14, or who has no
namespaces, is counted by looking: a program can have more threads than allowed for some 20 ms.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

from posttrain.verifiers.running import Ended, Limits, SandboxError, Zygote
from posttrain.verifiers.worker import AT_ONCE, NotStarted

__all__ = ["Ended", "Limits", "SandboxError", "run", "run_tests", "wall"]

WALLS = ("namespaces", "landlock", "seccomp")
UNISOLATED = "limits"
VARIABLE = "POSTTRAIN_SANDBOX"
TRIAL = """
import socket
try:
    socket.socket()
except OSError:
    print("no network")
"""


def run(program: str, stdin: bytes = b"", limits: Limits = Limits()) -> Ended:  # noqa: B008
    """Run one program to its end."""
    with _shared.at_once, _shared.zygote().start({"role": "run", "program": program}, limits, stdin) as running:
        return running.wait()


def run_tests(program: str, suite: Mapping[str, Any], limits: Limits) -> Ended:
    """Run tests in a process of their own against the program's functions; how the tests ended, not the program.

    The status is `jail.roles.PASSED` if they hold; see `jail.peer` for why a program cannot make it that.

    Args:
        suite: `tests`, `names`, `entry` and `modules` as in `code.Statements`; with `every`, a failure ends nothing.
    """
    served, tested = {"role": "serve", "program": program}, {"role": "test", **suite}
    with _shared.at_once, contextlib.ExitStack() as stack:
        asks, answers = os.pipe(), os.pipe()
        try:
            zygote = _shared.zygote()
            stack.enter_context(zygote.start(served, limits, extra=(asks[0], answers[1]), quiet=True))
            testing = stack.enter_context(zygote.start(tested, limits, extra=(answers[0], asks[1])))
        finally:
            for end in (*asks, *answers):  # so that each side sees the end of the other
                os.close(end)
        return testing.wait()


def wall() -> str:
    """The isolation in force on this machine.

    Raises:
        NotStarted: there is none.
    """
    return _shared.zygote().wall


class _Shared:
    """One zygote for all threads of this process: it forks in a millisecond, and programs run side by side."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)  # the zygote stays the parent's
        atexit.register(self.close)

    def forget(self) -> None:
        self.lock = threading.Lock()
        self.at_once = threading.BoundedSemaphore(AT_ONCE)
        self.current: Zygote | None = None
        self.chosen: str | None = None
        """The wall, once found; a zygote that is replaced never gets a weaker one."""

    def close(self) -> None:
        if self.current is not None:
            self.current.discard()
        self.current = None

    def zygote(self) -> Zygote:
        with self.lock:
            if self.current is not None and not self.current.alive():
                self.close()  # what it leaves behind
            if self.current is None:
                self.current = Zygote(self.chosen) if self.chosen else _first()
                self.chosen = self.current.wall
            return self.current


_shared = _Shared()


def _first() -> Zygote:
    """A zygote behind the strongest wall that works here."""
    if sys.platform != "linux":
        raise NotStarted("programs can be isolated by Linux only; judge code there, in a container for example")
    asked = os.environ.get(VARIABLE)
    if asked not in (None, *WALLS, UNISOLATED):
        raise NotStarted(f"{VARIABLE}={asked!r} names no wall; choose one of {', '.join((*WALLS, UNISOLATED))}")
    complaints = []
    for wall in [asked] if asked else WALLS:
        try:
            zygote = Zygote(wall)
            if wall == UNISOLATED or _try(zygote):
                return zygote
            complaints.append(f"{wall}: the trial program was not contained")
        except SandboxError as error:
            complaints.append(f"{wall}: {error}")
    raise NotStarted(
        f"no program can be isolated here ({'; '.join(complaints)}); run where Linux allows user namespaces or seccomp "
        f"filters, or set {VARIABLE}={UNISOLATED} to run programs without isolation"
    )


def _try(zygote: Zygote) -> bool:
    with zygote.start({"role": "run", "program": TRIAL}, Limits()) as running:
        ended = running.wait()
    if ended.stdout == b"no network\n":
        return True
    zygote.discard()
    return False
