"""As much of HTTP as a proxy needs: heads are read, bodies pass through a pipe of the kernel and not through Python."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from dataclasses import dataclass

PIECE = 1 << 20


class Ended(ConnectionError):
    """A peer closed the connection where more should have come."""


@dataclass(frozen=True)
class Head:
    """The lines before a body, as they came: signatures cover them."""

    raw: bytes

    @property
    def words(self) -> list[str]:
        """Method, target, version; or version, status, reason."""
        return self.raw.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)

    def field(self, name: str) -> str:
        for line in self.raw.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.decode("latin-1").lower() == name:
                return value.strip().decode("latin-1")
        return ""

    @property
    def length(self) -> int:
        """Bytes of the body, as far as the head says it; chunked bodies count as 0."""
        return int(self.field("content-length") or 0)

    @property
    def chunked(self) -> bool:
        return "chunked" in self.field("transfer-encoding").lower()


class Pace:
    """No faster than `bandwidth` bytes a second; what the scheduler came late by is made up for."""

    LATE = 0.05

    def __init__(self, bandwidth: float) -> None:
        self.bandwidth, self._due = bandwidth, time.monotonic()

    @property
    def piece(self) -> int:
        """Bytes of about ten milliseconds."""
        return PIECE if self.bandwidth == float("inf") else max(int(self.bandwidth / 100), 1)

    def sent(self, count: int) -> None:
        now = time.monotonic()
        self._due = max(self._due, now - self.LATE) + count / self.bandwidth
        if self._due > now + 0.001:
            time.sleep(self._due - now)


class Peer:
    """One side of a connection: its socket, and what came of the body with the head."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket, self._ahead = connection, bytearray()

    def until(self, mark: bytes) -> bytes:
        while (end := self._ahead.find(mark)) < 0:
            piece = self.socket.recv(1 << 14)
            if not piece:
                raise Ended
            self._ahead += piece
        return self._taken(end + len(mark))

    def head(self) -> Head:
        return Head(self.until(b"\r\n\r\n"))

    def take(self, count: int) -> bytes:
        """At most `count` bytes, at least one."""
        if self._ahead:
            return self._taken(count)
        piece = self.socket.recv(count)
        if not piece:
            raise Ended
        return piece

    def drop(self, count: int) -> None:
        while count:
            count -= len(self.take(min(count, PIECE)))

    def _taken(self, count: int) -> bytes:
        taken = bytes(self._ahead[:count])
        del self._ahead[:count]
        return taken

    def pass_on(self, sink: Peer, count: int, pace: Pace, pipe: tuple[int, int]) -> None:
        """Move `count` bytes to another peer."""
        while count and self._ahead:
            piece = self._taken(min(count, pace.piece))
            sink.socket.sendall(piece)
            count -= len(piece)
            pace.sent(len(piece))
        while count:
            moved = os.splice(self.socket.fileno(), pipe[1], min(count, pace.piece))
            if not moved:
                raise Ended
            left = moved
            while left:
                left -= os.splice(pipe[0], sink.socket.fileno(), left)
            count -= moved
            pace.sent(moved)

    def pass_chunks_on(self, sink: Peer, pace: Pace, pipe: tuple[int, int]) -> None:
        """Move a chunked body, with its trailer."""
        while size := self._line_to(sink).partition(b";")[0].strip():
            if int(size, 16):
                self.pass_on(sink, int(size, 16) + 2, pace, pipe)
            else:
                while self._line_to(sink) != b"\r\n":
                    pass
                return

    def _line_to(self, sink: Peer) -> bytes:
        line = self.until(b"\r\n")
        sink.socket.sendall(line)
        return line

    def reset(self) -> None:
        """Close so that the other end gets a reset instead of an end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


def wide_pipe() -> tuple[int, int]:
    """A pipe that holds a whole piece."""
    pipe = os.pipe()
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, PIECE)
    return pipe
