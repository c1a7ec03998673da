"""A process that is restricted as a pod is: no new privileges, and system calls refused by a profile of the runtime.

python restricted.py NUMBER ...    runs the sandbox with these system calls refused, and prints its wall
"""

import ctypes
import struct
import sys

UNSHARE, SETNS, MOUNT = 272, 308, 165
LANDLOCK = (444, 445, 446)
NAMESPACES = (UNSHARE, SETNS, MOUNT)  # what the default profile of container runtimes refuses


def refuse(numbers):
    """EPERM for these calls of x86_64, from now on."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    jumps = [struct.pack("HBBI", 0x15, len(numbers) - place, 0, one) for place, one in enumerate(numbers)]
    load, allow, deny = (0x20, 0, 0, 0), (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050001)
    code = b"".join([struct.pack("HBBI", *load), *jumps, struct.pack("HBBI", *allow), struct.pack("HBBI", *deny)])
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(Program(len(code) // 8, code)), 0, 0) == 0


if __name__ == "__main__":
    refuse([int(number) for number in sys.argv[1:]])
    from posttrain.verifiers import sandbox, verify

    tests = {"tests": ["assert add(1, 2) == 3"]}
    scores = [verify(f"def add(a, b): return a {sign} b", "code", tests).score for sign in "+-"]
    assert scores == [1, 0], scores
    assert sandbox.run("import socket\nsocket.socket()").status != 0
    print(sandbox.wall())
