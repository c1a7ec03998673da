"""The trusted side of a zygote: asking for programs, reading what they write, hearing how they ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from posttrain.verifiers import jail

STARTUP_S = 60.0
GRACE_S = 30.0  # for a report that is late on a busy machine; after that the zygote is thought broken
NEED_SCRATCH = ("landlock", "limits")
KEPT = ("LD_LIBRARY_PATH",)  # without which some interpreters do not start; programs see none of it
F_ADD_SEALS = 1033  # which `fcntl` does not name everywhere
SEALS = 1 | 2 | 4 | 8  # the seals themselves, shrinking, growing, writing


@dataclass(frozen=True)
class Limits:
    """What a program may use."""

    cpu_s: float = 10.0
    wall_s: float | None = None
    """Seconds until the end; None is twice the CPU time and five seconds, as machines are busy."""
    memory_mib: int = 512
    """Address space beyond that of an empty program."""
    files_mib: int = 16
    output_bytes: int = 1 << 20
    threads: int = 64
    open_files: int = 64

    def asked(self) -> dict[str, Any]:
        return {**asdict(self), "wall_s": 2 * self.cpu_s + 5 if self.wall_s is None else self.wall_s}


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    status: int
    """Exit code, or minus the signal that ended it."""
    reason: str
    """The limit that ended it: `time`, `output`, `threads`, `files`; empty if none, or if the kernel refused."""
    stdout: bytes
    stderr: bytes
    cpu_s: float
    peak_mib: float


class SandboxError(RuntimeError):
    """The sandbox failed, not the program."""


class Running:
    """A program that has been asked for; leaving the `with` block ends it."""

    def __init__(self, zygote: Zygote, limits: Limits, report: socket.socket, outputs: Sequence[int]) -> None:
        self.zygote, self.limits, self.report = zygote, limits, report
        self.outputs = {descriptor: bytearray() for descriptor in outputs}
        self.deadline = time.monotonic() + limits.asked()["wall_s"] + GRACE_S
        self.answer: dict[str, Any] | None = None

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        """Every process of the program is dead when this returns, and not only asked to die."""
        try:
            if self.answer is None:
                self._stop()
                self._report()
        finally:
            self.report.close()
            for descriptor in self.outputs:
                os.close(descriptor)

    def wait(self) -> Ended:
        """Read what it writes until it has ended."""
        excess = self._read_outputs()
        answer = self.answer or self._report()
        reason = "output" if excess else answer["reason"]
        stdout, stderr = (bytes(written[: self.limits.output_bytes]) for written in self.outputs.values())
        return Ended(answer["status"], reason, stdout, stderr, answer["cpu_s"], answer["peak_mib"])

    def _read_outputs(self) -> bool:
        """Whether there was too much, of which the program is then dying.

        The report is the end, not the end of the pipes: a process that another thread forks meanwhile holds them too.
        """
        poll = select.poll()
        for descriptor in (self.report.fileno(), *self.outputs):
            poll.register(descriptor, select.POLLIN)
        left = set(self.outputs)
        while left or self.answer is None:
            ready = poll.poll(0 if self.answer else max(0.0, 1000 * (self.deadline - time.monotonic())))
            if not ready and self.answer:
                break
            if not ready:
                self.zygote.discard()
                raise SandboxError("the sandbox does not answer")
            for descriptor, _ in ready:
                if descriptor == self.report.fileno():
                    self._report()
                elif part := os.read(descriptor, 1 << 16):
                    self.outputs[descriptor] += part
                    if len(self.outputs[descriptor]) > self.limits.output_bytes:
                        self._stop()
                        return True
                    continue
                poll.unregister(descriptor)
                left.discard(descriptor)
        return False

    def _stop(self) -> None:
        """Not by a message: one that is never read would make the report be lost."""
        with contextlib.suppress(OSError):
            self.report.shutdown(socket.SHUT_WR)

    def _report(self) -> dict[str, Any]:
        self.report.settimeout(max(0.1, self.deadline - time.monotonic()))
        try:
            message = self.report.recv(1 << 16)
            self.answer = json.loads(message)
        except (OSError, ValueError) as error:
            self.answer = {}
            self.zygote.discard()
            raise SandboxError(f"the sandbox was lost: {error!r}") from error
        if "failed" in self.answer:
            self.zygote.discard()
            raise SandboxError(f"the sandbox failed: {self.answer['failed']}")
        return self.answer


class Zygote:
    """The process that programs are forked from, as seen from here."""

    def __init__(self, wall: str) -> None:
        self.wall = wall
        self.scratch = ""
        if wall in NEED_SCRATCH:
            with contextlib.suppress(OSError):  # pods with a read-only root have none
                self.scratch = tempfile.mkdtemp(prefix="posttrain-sandbox-")
                os.chmod(self.scratch, 0o711)  # programs that root runs are other users
        self.connection, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with there:
            self.process = subprocess.Popen(
                # Not -I, which would ignore the one variable that makes sets of strings come in the same order always.
                [sys.executable, "-S", "-s", "-P", "-B", "-X", "utf8", "-c", _boot(there.fileno(), wall, self.scratch)],
                env={"PYTHONHASHSEED": "0"} | {name: os.environ[name] for name in KEPT if name in os.environ},
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
            )
        self.connection.settimeout(STARTUP_S)
        try:
            complaint = json.loads(self.connection.recv(1 << 16) or b'"its process does not start"')
        except (OSError, ValueError) as error:
            complaint = repr(error)
        if complaint is not None:
            self.discard()
            raise SandboxError(complaint)

    def start(
        self, job: Mapping[str, Any], limits: Limits, stdin: bytes = b"", extra: Sequence[int] = (), quiet: bool = False
    ) -> Running:
        """Ask for a program; quiet, what it writes is thrown away."""
        mine, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as stack:
            stack.enter_context(there)
            theirs = [_file(json.dumps({**job, "limits": limits.asked()}).encode()), there.fileno(), _file(stdin)]
            outputs, ends = [], []
            for _ in range(2):
                if quiet:
                    ends.append(os.open(os.devnull, os.O_WRONLY))
                else:
                    ours, end = os.pipe()
                    outputs.append(ours)
                    ends.append(end)
            for one in (theirs[0], theirs[2], *ends):
                stack.callback(os.close, one)
            running = Running(self, limits, mine, outputs)
            try:
                socket.send_fds(self.connection, [b"x"], [*theirs, *ends, *extra])
            except OSError as error:
                running.answer = {}
                with running:
                    self.discard()
                    raise SandboxError(f"the sandbox was lost: {error!r}") from error
        return running

    def alive(self) -> bool:
        return self.process.poll() is None

    def discard(self) -> None:
        """End it and all its programs; the next request starts another."""
        self.connection.close()
        self.process.kill()
        self.process.wait()
        if self.scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)


def _boot(descriptor: int, wall: str, scratch: str) -> str:
    """Code that runs the zygote with this package's parents as empty stand-ins: nothing of posttrain is imported."""
    folder = os.path.dirname(os.path.abspath(jail.__file__))
    return (
        "import sys, types\n"
        "for name in ('posttrain', 'posttrain.verifiers'):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        f"sys.modules['posttrain.verifiers'].__path__ = [{os.path.dirname(folder)!r}]\n"
        "from posttrain.verifiers.jail.zygote import serve\n"
        f"serve({descriptor}, {wall!r}, {scratch!r})\n"
    )


def _file(content: bytes) -> int:
    """A file in memory, sealed: a program that is handed it can read it and no more."""
    descriptor = os.memfd_create("posttrain", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    fcntl.fcntl(descriptor, F_ADD_SEALS, SEALS)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
