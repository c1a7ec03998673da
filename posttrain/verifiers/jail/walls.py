"""What keeps a program in: the kinds of wall there are, weakest first, and the resource limits that all have.

A wall is used in three places, in this order: `build` in the zygote, once; `enclose` in the watcher of one program,
before it forks the program's process; `shut` in that process, as the last thing before the program.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import shutil
import sys
from typing import Any

from posttrain.verifiers.jail import syscalls
from posttrain.verifiers.jail.syscalls import LIBC, checked

MIB = 1 << 20
BLOCK = 4096  # what an empty file costs
STACK_BYTES = 64 * MIB  # what deep recursion in C gets; the room below a stack is 128 MiB
PR_SET_PDEATHSIG, SIGKILL = 1, 9
CHANGE_USER = 1 << 0 | 1 << 6 | 1 << 7  # CAP_CHOWN, CAP_SETGID, CAP_SETUID


class Bare:
    """Resource limits and a process group, nothing else: the program can read, connect and fork. Only by name."""

    name = "limits"

    def __init__(self, scratch: str) -> None:
        self.scratch = scratch
        """A directory of the zygote's own, where programs get theirs; empty if there is none."""
        self.work: str | None = None
        """The one directory this program may write in."""
        self.proc = high(os.open("/proc", os.O_PATH | os.O_DIRECTORY))
        self.pages = int(self.read("self/statm").split()[0])
        self.ids = self.read("self/uid_map")
        status = self.read("self/status")
        privileges = int(status.partition("CapEff:")[2].split()[0], 16)
        self.own_ids = os.geteuid() == 0 and privileges & CHANGE_USER == CHANGE_USER
        """Every program can run under a user number that nobody else has."""

    def build(self) -> None:
        """What all programs share."""

    def enclose(self, limits: dict[str, Any]) -> None:
        """What one program has for itself."""
        if self.scratch:
            work = os.path.join(self.scratch, str(os.getpid()))
            os.mkdir(work, 0o700)
            self.work = work

    def shut(self, limits: dict[str, Any]) -> None:
        """Close the wall behind the process that calls it."""
        os.chdir(self.work or "/")
        self.limit(limits)
        self.confine()
        self.drop()
        checked(LIBC.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "pdeathsig")  # forgotten when the user changes
        self.filter()

    def confine(self) -> None:
        """What must happen while the process is still privileged."""

    def filter(self) -> None:
        """What can never be undone."""

    def limit(self, limits: dict[str, Any]) -> None:
        """Per process, which is enough where a program cannot fork."""
        hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
        wanted = {
            resource.RLIMIT_AS: self.pages * resource.getpagesize() + limits["memory_mib"] * MIB,
            resource.RLIMIT_CPU: int(limits["cpu_s"]) + 1,
            resource.RLIMIT_FSIZE: limits["files_mib"] * MIB,
            resource.RLIMIT_NOFILE: limits["open_files"],
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_MEMLOCK: 0,
            resource.RLIMIT_STACK: STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard),
        }
        if self.counts_apart():
            wanted[resource.RLIMIT_NPROC] = limits["threads"] + 2  # the watcher, and the program's first thread
        for what, value in wanted.items():
            resource.setrlimit(what, (value, value))

    def counts_apart(self) -> bool:
        """Whether RLIMIT_NPROC, which counts all that a user runs, counts this program alone."""
        return self.own_ids

    def drop(self) -> None:
        """Give up the user, where that is root and may, and every capability."""
        if self.own_ids:
            spare = spare_id(self.ids, os.getpid())
            if self.work:
                os.chown(self.work, spare, spare)
            os.setgroups([])
            os.setresgid(spare, spare, spare)
            os.setresuid(spare, spare, spare)
        drop_capabilities()

    def used(self) -> int:
        """Bytes the program has written, for the watcher; where the kernel keeps the bound, 0."""
        if self.work is None:
            return 0
        total = 0
        with os.scandir(self.work) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    total += max(entry.stat(follow_symlinks=False).st_size, BLOCK)
        return total

    def clean(self) -> None:
        """Remove what the program leaves, for the watcher."""
        if self.work is not None:
            shutil.rmtree(self.work, ignore_errors=True)

    def read(self, path: str) -> str:
        """A file of the /proc that the zygote was started in, though it may be out of sight."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc)
        with open(descriptor, encoding="latin-1") as file:  # a program may give itself any name
            return file.read()

    def write(self, path: str, text: str) -> None:
        with open(os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.proc), "w", encoding="ascii") as file:
            file.write(text)


class Seccomp(Bare):
    """System calls are filtered, and none that names a file is left: a program has what the zygote has imported.

    The parent's /proc/PID/mem holds the expected answers, and a filter cannot tell one path from another.
    """

    name = "seccomp"
    files = False

    def build(self) -> None:
        if not syscalls.supported():
            raise OSError(f"system calls of {os.uname().machine} are not known here")

    def enclose(self, limits: dict[str, Any]) -> None:
        pass

    def filter(self) -> None:
        if not self.files:  # so that what is not there is a ModuleNotFoundError
            sys.path_hooks.clear()
            sys.path_importer_cache.clear()
        syscalls.install(self.files)


def spare_id(uid_map: str, salt: int) -> int:
    """A user number that is surely nobody's: high, within what the user namespace maps, and not 65534."""
    inside, _, count = map(int, uid_map.splitlines()[-1].split())
    return inside + min(count, 0x7FFFFFFF) - 3 - salt % min(30_000, count // 2)


def high(descriptor: int) -> int:
    """Move a descriptor out of the way of those that a program gets, which are 0, 1, 2, …"""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 100)
    os.close(descriptor)
    return moved


def drop_capabilities() -> None:
    """For good: the filter that follows brings no_new_privs."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    checked(LIBC.capset(header, (ctypes.c_uint32 * 6)()), "capset")
