"""Which system calls a program may make, as a seccomp filter.

A list of what is allowed, not of what is forbidden: a call that the next kernel brings is refused unseen. What is not
listed does not exist (ENOSYS), so that glibc takes its older way instead of failing: threads start by `clone`, whose
flags a filter can see, not by `clone3`, whose flags it cannot. There is no fork, exec, socket, mount, ptrace, shared
memory, memfd, io_uring, or signal to anybody else, and so a program is one process, whatever the machine offers.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from typing import NamedTuple

LIBC = ctypes.CDLL(None, use_errno=True)

ALLOW, REFUSE, UNKNOWN, KILL = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38, 0x80000000
"""Let pass; EPERM, for arguments that are not allowed; ENOSYS, for calls that are not; end the process."""


class Machine(NamedTuple):
    """Where a machine's number stands in the tables below, and how the kernel names its calling convention."""

    column: int
    audit: int
    seccomp: int


MACHINES = {"x86_64": Machine(0, 0xC000003E, 317), "aarch64": Machine(1, 0xC00000B7, 277)}

# Name: number on x86_64, on aarch64; None where there is no such call.
PLAIN: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "futex": (202, 98), "mmap": (9, 222), "munmap": (11, 215), "brk": (12, 214),
    "mremap": (25, 216), "mprotect": (10, 226), "madvise": (28, 233), "msync": (26, 227), "membarrier": (324, 283),
    "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18, 68), "lseek": (8, 62),
    "close": (3, 57), "close_range": (436, 436), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "fstat": (5, 80), "newfstatat": (262, 79), "stat": (4, None), "lstat": (6, None), "statx": (332, 291),
    "pipe": (22, None), "pipe2": (293, 59), "eventfd2": (290, 19), "flock": (73, 32), "umask": (95, 166),
    "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46), "sendfile": (40, 71), "getcwd": (79, 17),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None),
    "epoll_pwait": (281, 22), "recvfrom": (45, 207), "shutdown": (48, 210),
    "set_robust_list": (273, 99), "rseq": (334, 293), "set_tid_address": (218, 96),
    "exit": (60, 93), "exit_group": (231, 94), "wait4": (61, 260), "waitid": (247, 95), "restart_syscall": (219, 128),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "pause": (34, None),
    "alarm": (37, None), "getitimer": (36, 102), "setitimer": (38, 103), "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169),
    "time": (201, None), "times": (100, 153), "getrusage": (98, 165), "getrlimit": (97, 163), "setrlimit": (160, 164),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158), "getresuid": (118, 148),
    "getresgid": (120, 150), "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156),
    "getpriority": (140, 141), "getcpu": (309, 168), "getrandom": (318, 278), "uname": (63, 160), "sysinfo": (99, 179),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
}  # fmt: skip

# Calls that name a file: only where another wall decides which files there are.
BY_PATH: dict[str, tuple[int | None, int | None]] = {
    "open": (2, None), "openat": (257, 56), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "getdents64": (217, 61), "readlink": (89, None), "readlinkat": (267, 78), "unlink": (87, None),
    "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "chdir": (80, 49),
    "truncate": (76, 45),
}  # fmt: skip


class Only(NamedTuple):
    """An argument that must have one of some values, once masked."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


OWN = -1
"""Stands for the number of the process itself."""

CONDITIONAL: dict[str, tuple[tuple[int, int], tuple[Only, ...]]] = {
    "clone": ((56, 220), (Only(0, (0x10000,), mask=0x10000),)),  # CLONE_THREAD
    "kill": ((62, 129), (Only(0, (OWN,)),)),
    "tgkill": ((234, 131), (Only(0, (OWN,)),)),
    "prlimit64": ((302, 261), (Only(0, (0, OWN)),)),  # the limits of another process of the same user could be set
    # Not F_SETOWN and F_SETSIG, which have the kernel send any signal to anybody of the same user.
    "fcntl": ((72, 25), (Only(1, (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)),)),
    # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: what isatty, asyncio and close-on-exec need.
    "ioctl": ((16, 29), (Only(1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),)),
    # A name for a thread or a mapping. Not PR_SET_PDEATHSIG, by which the child ends with its watcher.
    "prctl": ((157, 167), (Only(0, (15, 16, 0x53564D41)),)),
    # A connected pair, which asyncio needs to wake itself; not a datagram one, which could be addressed elsewhere.
    "socketpair": ((53, 199), (Only(0, (1,)), Only(1, (1,), mask=0xF))),
    "sendto": ((44, 206), (Only(5, (0,)),)),  # without an address
}


def supported() -> bool:
    """Whether the machine's numbers are known here."""
    return platform.machine() in MACHINES


def program(files: bool, own: int) -> bytes:
    """The filter as instructions of classic BPF.

    Args:
        files: allow calls that name a file.
        own: the number of the process that will be filtered.
    """
    machine = MACHINES[platform.machine()]
    instructions = list(_prologue(machine.audit))
    for numbers in {**PLAIN, **(BY_PATH if files else {})}.values():
        number = numbers[machine.column]
        if number is not None:
            instructions += [(0x15, 0, 1, number), (0x06, 0, 0, ALLOW)]  # jeq, ret
    for pair, conditions in CONDITIONAL.values():
        block = [step for condition in conditions for step in _check(condition, own)] + [(0x06, 0, 0, ALLOW)]
        instructions += [(0x15, 0, len(block), pair[machine.column]), *block]
    instructions.append((0x06, 0, 0, UNKNOWN))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)


def _prologue(audit: int) -> Iterator[tuple[int, int, int, int]]:
    yield (0x20, 0, 0, 4)  # load the convention: 32-bit calls have other numbers
    yield (0x15, 1, 0, audit)
    yield (0x06, 0, 0, KILL)
    yield (0x20, 0, 0, 0)  # load the number


def _check(only: Only, own: int) -> Iterator[tuple[int, int, int, int]]:
    """Falls through where the argument may pass. The low half is compared: every argument used here is an int."""
    yield (0x20, 0, 0, 16 + 8 * only.argument)
    if only.mask != 0xFFFFFFFF:
        yield (0x54, 0, 0, only.mask)
    for left, value in enumerate(reversed(only.values)):
        value = own if value == OWN else value
        yield (0x15, len(only.values) - left, 0, value)
    yield (0x06, 0, 0, REFUSE)


def install(files: bool) -> None:
    """Filter this process from now on; it can never be undone."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    code = program(files, os.getpid())
    checked(LIBC.prctl(38, 1, 0, 0, 0), "no_new_privs")
    number = MACHINES[platform.machine()].seccomp
    checked(LIBC.syscall(number, 1, 0, ctypes.byref(Program(len(code) // 8, code))), "seccomp")


def checked(result: int, what: str) -> int:
    """The result of a C call, or the OSError it stands for."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
