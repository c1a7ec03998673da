"""Checksums that S3 keeps of whole objects: fast, and that of a whole follows from those of its parts.

What we send gets CRC-64/NVME; what others sent may have another.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

# Bytes that one read, checksum and write take at a time: large enough for few calls, small enough for the CPU's cache.
# Half of it costs a quarter more of the processor in fetching; twice as much saves 3% and twice the memory is held.
BLOCK = 512 * 1024

OURS = "CRC64NVME"
FIELD = f"Checksum{OURS}"  # of requests and answers
_BYTES = {OURS: 8, "CRC32C": 4, "CRC32": 4}


def checksum(data: memoryview | bytes, before: int = 0, kind: str = OURS) -> int:
    """The checksum of `data` following on bytes whose checksum is `before`. It leaves Python's lock meanwhile."""
    from awscrt import checksums

    value: int = getattr(checksums, kind.lower())(data, before)
    return value


def combined(parts: Iterable[tuple[int, int]], kind: str = OURS) -> int:
    """The checksum of a whole from (checksum, length) of its parts, in order."""
    from awscrt import checksums

    combine, whole = getattr(checksums, f"combine_{kind.lower()}"), 0
    for value, length in parts:
        whole = combine(whole, value, length)
    return whole


def encoded(value: int, kind: str = OURS) -> str:
    """As S3 writes it in headers."""
    return base64.b64encode(value.to_bytes(_BYTES[kind], "big")).decode()


def kept(head: Mapping[str, Any]) -> tuple[str, str]:
    """The kind and the value of the checksum that a store keeps of an object; no value where it keeps none.

    Some keep one of the parts' sums, marked by their number, which says nothing of the bytes by itself.
    """
    found = {kind: head.get(f"Checksum{kind}", "") for kind in _BYTES}
    return next(((kind, value) for kind, value in found.items() if value and "-" not in value), (OURS, ""))
