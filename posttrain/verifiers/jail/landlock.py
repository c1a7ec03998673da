"""Landlock: the kernel lets a process give up files, without any privilege (Linux 6.2 and newer).

Pods under the restricted Pod Security Standard may use it, where they may not make user namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from typing import Any

from posttrain.verifiers.jail.syscalls import LIBC, checked
from posttrain.verifiers.jail.walls import Bare, Seccomp

CREATE, ADD, RESTRICT = 444, 445, 446
EXECUTE_TO_REFER = (1 << 14) - 1
TRUNCATE, IOCTL_DEVICE = 1 << 14, 1 << 15
READ = 1 << 2 | 1 << 3  # files and directories
WRITE = 1 << 1 | 1 << 5 | 1 << 8 | TRUNCATE  # files, remove and make files; not directories or links
OLDEST = 3  # before it, a file could be emptied by who may only read it


class Landlock(Seccomp):
    """System calls are filtered; files are the standard library, to read, and a flat private directory.

    It also denies ptrace and /proc/PID of everybody outside.
    """

    name = "landlock"
    files = True

    def build(self) -> None:
        super().build()
        version = checked(LIBC.syscall(CREATE, None, 0, 1), "landlock")
        if version < OLDEST:
            raise OSError(f"landlock: version {version}, but {OLDEST} is needed")
        self.handled = EXECUTE_TO_REFER | TRUNCATE | (IOCTL_DEVICE if version >= 5 else 0)

    def enclose(self, limits: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # a full disk: a program can do without
            Bare.enclose(self, limits)

    def confine(self) -> None:
        attributes = struct.pack("Q", self.handled)
        rules = checked(LIBC.syscall(CREATE, attributes, len(attributes), 0), "landlock ruleset")
        for path in visible():
            with contextlib.suppress(FileNotFoundError):
                _allow(rules, path, READ)
        _allow(rules, os.devnull, 1 << 1 | 1 << 2)
        if self.work:
            _allow(rules, self.work, READ | WRITE)
        checked(LIBC.prctl(38, 1, 0, 0, 0), "no_new_privs")
        checked(LIBC.syscall(RESTRICT, rules, 0), "landlock restrict")
        os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            access &= 1 << 1 | 1 << 2 | TRUNCATE
        rule = struct.pack("=Qi", access, beneath)
        checked(LIBC.syscall(ADD, rules, 1, ctypes.c_char_p(rule), 0), f"landlock rule {path}")
    finally:
        os.close(beneath)


def visible() -> list[str]:
    """What importing any module of the standard library may read."""
    return [
        os.path.dirname(os.__file__),
        os.path.join(sys.base_prefix, "lib"),
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/usr/share/zoneinfo",
        "/etc/ld.so.cache",
    ]
