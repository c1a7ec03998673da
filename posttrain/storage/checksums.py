"""CRC-64/NVME, the checksum that S3 keeps of whole objects: fast, and that of a whole follows from those of its parts."""

from __future__ import annotations

import base64
from collections.abc import Iterable

# Bytes that one read, checksum and write take at a time: large enough for few calls, small enough for the CPU's cache.
BLOCK = 256 * 1024


def checksum(data: memoryview | bytes, before: int = 0) -> int:
    """The checksum of `data` following on bytes whose checksum is `before`. It leaves Python's lock meanwhile."""
    from awscrt.checksums import crc64nvme

    return crc64nvme(data, before)


def combined(parts: Iterable[tuple[int, int]]) -> int:
    """The checksum of a whole from (checksum, length) of its parts, in order."""
    from awscrt.checksums import combine_crc64nvme

    whole = 0
    for value, length in parts:
        whole = combine_crc64nvme(whole, value, length)
    return whole


def encoded(value: int) -> str:
    """As S3 writes it in headers."""
    return base64.b64encode(value.to_bytes(8, "big")).decode()
