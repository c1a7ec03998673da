"""The process that programs are forked from: a bare interpreter that has imported what programs import.

    trusted process ── request ──> zygote ── fork ──> watcher ── fork ──> the program
           └──────────────────── report ───────────────┘

A request is a handful of file descriptors: the job (JSON in a memfd), the socket for the report, and what the program
gets as its own 0, 1, 2, … The zygote never reads a job, so nothing of one program is in memory when the next is
forked. The watcher ends the program at its limits, reports how it ended, and ends; each dies with its parent.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any

from posttrain.verifiers.jail import roles
from posttrain.verifiers.jail.landlock import Landlock
from posttrain.verifiers.jail.namespaces import Namespaces
from posttrain.verifiers.jail.syscalls import LIBC
from posttrain.verifiers.jail.walls import PR_SET_PDEATHSIG, SIGKILL, Bare, Seccomp, high

WALLS: dict[str, type[Bare]] = {wall.name: wall for wall in (Namespaces, Landlock, Seccomp, Bare)}
POLL_MS = 20
PR_SET_CHILD_SUBREAPER, M_ARENA_MAX = 36, -8
TICKS = os.sysconf("SC_CLK_TCK")

# Where no file can be opened, a program has these and no others.
IMPORTED = (
    "abc", "array", "ast", "base64", "bisect", "bz2", "calendar", "cmath", "collections", "collections.abc",
    "contextlib", "copy", "csv", "dataclasses", "datetime", "decimal", "difflib", "enum", "fractions", "functools",
    "hashlib", "heapq", "inspect", "io", "itertools", "json", "keyword", "math", "numbers", "operator", "pprint",
    "queue", "random", "re", "secrets", "shlex", "statistics", "string", "struct", "tempfile", "textwrap",
    "threading", "time", "timeit", "traceback", "types", "typing", "unicodedata", "warnings", "zlib",
)  # fmt: skip


def serve(descriptor: int, wall_name: str, scratch: str) -> None:
    """The zygote's life: build the wall, then fork a watcher for every request until the other end is closed."""
    connection = socket.socket(fileno=descriptor)
    for module in IMPORTED:
        importlib.import_module(module)
    for name in ("exit", "quit"):  # `site` makes them, which is not run here
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))
    LIBC.mallopt(M_ARENA_MAX, 1)  # every further one would take 64 MiB of a program's address space
    try:
        wall = WALLS[wall_name](scratch)
        wall.build()
    except OSError as error:
        connection.send(json.dumps(str(error)).encode())
        return
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # watchers are not waited for
    gc.collect()
    gc.freeze()
    connection.send(b"null")
    zygote = os.getpid()
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, 1, 16)
        if not message:
            shutil.rmtree(scratch, ignore_errors=True)
            return
        if os.fork() == 0:
            connection.close()
            _watch(wall, descriptors, zygote)
        for one in descriptors:
            os.close(one)


def _watch(wall: Bare, descriptors: Sequence[int], zygote: int) -> None:
    """One program from fork to report; ends the process."""
    job_file, report, *given = descriptors
    try:
        _die_with(zygote)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with open(job_file, encoding="utf-8") as file:
            job = json.load(file)
        with contextlib.suppress(OSError):
            wall.write("self/oom_score_adj", "1000")  # where memory runs out, this goes first
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        wall.enclose(job["limits"])
        try:
            answer = _ended(wall, job["limits"], _fork(wall, job, given), report)
        finally:
            _kill_orphans(wall)
            wall.clean()
    except BaseException as error:
        answer = {"failed": f"{type(error).__name__}: {error}"}
    os.write(report, json.dumps(answer).encode())
    os._exit(0)


def _die_with(parent: int) -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _fork(wall: Bare, job: dict[str, Any], given: list[int]) -> int:
    """The number of the program's process, behind its wall and about to begin."""
    hear, tell = os.pipe()
    tell = high(tell)
    child = os.fork()
    if child == 0:
        try:
            os.close(hear)
            os.setsid()
            for number, one in enumerate([high(one) for one in given]):
                os.dup2(one, number)
            wall.shut(job["limits"])
            if _nobody_hears(tell):
                os._exit(1)  # the watcher died before its death could be noticed
        except BaseException as error:
            os.write(tell, f"{type(error).__name__}: {error}".encode())
            os._exit(1)
        os.closerange(len(given), 4096)  # `tell` among them
        roles.play(job)
        os._exit(1)
    for one in (tell, *given):
        os.close(one)
    with open(hear, encoding="utf-8") as file:
        complaint = file.read()
    if complaint:
        os.waitpid(child, 0)
        raise OSError(complaint)
    return child


def _nobody_hears(tell: int) -> bool:
    poll = select.poll()
    poll.register(tell, 0)
    return bool(poll.poll(0))


def _ended(wall: Bare, limits: dict[str, Any], child: int, report: int) -> dict[str, Any]:
    """Wait for the program, or end it at a limit or when the trusted process says so or is gone."""
    poll = select.poll()
    poll.register(report, select.POLLIN)
    with contextlib.suppress(OSError):  # Linux 5.3; without, the end is seen at the next look
        poll.register(os.pidfd_open(child), select.POLLIN)
    deadline, reason = time.monotonic() + limits["wall_s"], ""
    while True:
        ready = poll.poll(POLL_MS)
        gone, status, usage = os.wait4(child, os.WNOHANG if not reason else 0)
        if gone:
            break
        if any(descriptor == report for descriptor, _ in ready):
            reason = "stopped"
        elif time.monotonic() > deadline:
            reason = "time"
        else:
            reason = _exceeded(wall, limits, child)
        if reason:
            os.kill(child, signal.SIGKILL)
    cpu_s = usage.ru_utime + usage.ru_stime
    if not reason and (cpu_s > limits["cpu_s"] or -os.waitstatus_to_exitcode(status) == signal.SIGXCPU):
        reason = "time"
    return {
        "status": os.waitstatus_to_exitcode(status),
        "reason": reason,
        "cpu_s": cpu_s,
        "peak_mib": usage.ru_maxrss / 1024,
    }


def _exceeded(wall: Bare, limits: dict[str, Any], child: int) -> str:
    """The limits that the kernel keeps coarsely or not at all: it counts threads by user, CPU in whole seconds."""
    try:
        fields = wall.read(f"{child}/stat").rpartition(")")[2].split()
    except OSError:
        return ""  # gone, or /proc is hidden here
    if int(fields[17]) > limits["threads"]:
        return "threads"
    if int(fields[11]) + int(fields[12]) > limits["cpu_s"] * TICKS:
        return "time"
    return "files" if wall.used() > limits["files_mib"] << 20 else ""


def _kill_orphans(wall: Bare) -> None:
    """Where a program may fork (only under bare limits), its descendants are ours by now: kill until none is left."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                for child in wall.read(f"self/task/{os.getpid()}/children").split():
                    os.kill(int(child), signal.SIGKILL)
        except ChildProcessError:
            return
        except ProcessLookupError:
            pass
