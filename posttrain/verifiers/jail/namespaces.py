"""Namespaces: a program sees a root of its own, no network, no other process, and a user that owns nothing.

For root the user is a number that nobody has (root that may not change users gets another wall), else the user's own.
Once, in the zygote: user, mount, network, IPC, UTS and cgroup namespaces, and a root that holds the standard library,
read-only, and little else: no /proc, no /etc, no binaries. Per program: user, mount and PID namespaces, and a small
tmpfs on /tmp. The program is number 1 of its PID namespace, so that the kernel kills whatever else is in there when it
ends. A network namespace per program would cost more than the program.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from posttrain.verifiers.jail.landlock import visible
from posttrain.verifiers.jail.syscalls import LIBC, checked
from posttrain.verifiers.jail.walls import Seccomp, drop_capabilities, spare_id

NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
PR_SET_DUMPABLE = 4
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
NEW_ROOT = "/tmp"
INODES = 256


class Namespaces(Seccomp):
    """Namespaces, and the filter on top: a fault in one wall is not yet a way out."""

    name = "namespaces"
    files = True

    def build(self) -> None:
        super().build()
        paths = sorted({*visible(), *DEVICES}, key=len)  # what holds others first
        links = {path: os.readlink(path) for path in paths if os.path.islink(path)}
        self._unshare(NEWUSER | NEWNS | NEWNET | NEWIPC | NEWUTS | NEWCGROUP)
        # Opened in the new mount namespace, and as the old user, whom alone /root may let pass.
        sources = {p: os.open(p, os.O_PATH) for p in paths if p not in links and os.path.exists(p)}
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        checked(LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable")  # else /proc/self is not ours
        mount(None, "/", None, REC | PRIVATE)
        mount("tmpfs", NEW_ROOT, "tmpfs", NOSUID | NODEV, "size=1m,nr_inodes=4k,mode=755")
        for path, text in links.items():
            _make_parent(path)
            os.symlink(text, NEW_ROOT + path)
        for path, source in sources.items():
            _bind(path, source)
        os.makedirs(NEW_ROOT + "/tmp", exist_ok=True)
        mount(None, NEW_ROOT, None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)
        os.chdir(NEW_ROOT)
        checked(LIBC.pivot_root(b".", b"."), "pivot_root")
        checked(LIBC.umount2(b".", 2), "umount")  # MNT_DETACH
        os.chdir("/")
        self.work = "/tmp"

    def _unshare(self, flags: int) -> None:
        """Enter new namespaces. The map of users is written from outside them, which lets root choose the user."""
        user, group = os.geteuid(), os.getegid()
        if self.own_ids:
            user = group = spare_id(self.ids, os.getpid())
            os.setgroups([])
        us, (hear, tell) = os.getpid(), os.pipe()
        helper = os.fork()
        if helper == 0:
            os.close(tell)
            try:
                if os.read(hear, 1):
                    self._map(f"{us}", user, group)
                    os._exit(0)
            finally:
                os._exit(1)
        os.close(hear)
        try:
            checked(LIBC.unshare(flags), "unshare")
            os.write(tell, b"x")
        finally:
            os.close(tell)
            _, status = os.waitpid(helper, 0)
        if status:
            raise OSError("the map of the user namespace cannot be written")

    def _map(self, process: str, user: int, group: int) -> None:
        self.write(f"{process}/setgroups", "deny")
        self.write(f"{process}/gid_map", f"0 {group} 1")
        self.write(f"{process}/uid_map", f"0 {user} 1")

    def enclose(self, limits: dict[str, Any]) -> None:
        checked(LIBC.unshare(NEWUSER | NEWNS | NEWPID), "unshare")
        self._map("self", 0, 0)
        options = f"size={limits['files_mib']}m,nr_inodes={INODES},mode=700"
        mount("tmpfs", "/tmp", "tmpfs", NOSUID | NODEV | NOEXEC, options)

    def counts_apart(self) -> bool:
        release = os.uname().release.split(".")
        return (int(release[0]), int(release[1].partition("-")[0])) >= (5, 14)  # since then by user namespace

    def drop(self) -> None:
        drop_capabilities()

    def used(self) -> int:
        return 0

    def clean(self) -> None:
        pass


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    given = [None if text is None else text.encode() for text in (source, target, kind, data)]
    result = LIBC.mount(given[0], given[1], given[2], ctypes.c_ulong(flags), given[3])
    checked(result, f"mount {source or ''} on {target}")


def _make_parent(path: str) -> None:
    os.makedirs(os.path.dirname(NEW_ROOT + path), exist_ok=True)


def _bind(path: str, source: int) -> None:
    """Show a file or directory in the new root, read-only with all that is mounted below it."""
    target, origin = NEW_ROOT + path, f"/proc/self/fd/{source}"
    _make_parent(path)
    if os.path.isdir(origin):
        if os.path.isdir(target):
            return  # within one that is there already
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(origin, target, None, BIND | REC)
    if path not in DEVICES:
        attributes = (ctypes.c_uint64 * 4)(RDONLY)
        number = ctypes.c_long(MOUNT_SETATTR)
        result = LIBC.syscall(number, AT_FDCWD, target.encode(), AT_RECURSIVE, attributes, ctypes.sizeof(attributes))
        checked(result, f"read-only {path}")
    os.close(source)
