"""Connections to OpenAI-compatible servers: a request is tried again while its fault may pass, and never for ever.

A socket's timeout is for one read: a server or proxy that sends a byte now and then holds a request as long as it
likes. Here it is for the whole answer, from its status line to its last byte. So a request takes no longer than
RETRIES + 1 times (CONNECT_S + the time for an answer), and the pauses between.
"""

from __future__ import annotations

import http.client
import io
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import urllib3

# A second try at once, then after 2, 4 … seconds, each with up to one of chance, so that clients that failed together
# do not come back together; or after what Retry-After says. Some two minutes: what a proxy takes to move a server.
RETRIES, PAUSE_S, LONGEST_PAUSE_S = 6, 1.0, 60
CONNECT_S = 10
PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # statuses of a server that is busy or being moved


def connections(at_once: int, answer_s: float, key: str = "") -> urllib3.PoolManager:
    """A pool of connections, safe to use from many threads, but not across a fork.

    Args:
        at_once: connections kept to a server.
        answer_s: seconds in which a whole answer must be there.
        key: sent as bearer token.
    """
    import urllib3

    pool = urllib3.PoolManager(
        maxsize=at_once,
        headers={"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})},
        timeout=urllib3.Timeout(connect=CONNECT_S, read=answer_s),
        retries=urllib3.Retry(
            total=RETRIES,
            redirect=False,
            allowed_methods=None,  # a POST too: those that are sent change nothing
            status_forcelist=PASSING,
            raise_on_status=False,
            backoff_factor=PAUSE_S,
            backoff_jitter=PAUSE_S,
            backoff_max=LONGEST_PAUSE_S,
            retry_after_max=LONGEST_PAUSE_S,
        ),
    )
    pool.pool_classes_by_scheme = {
        "http": _timely(urllib3.HTTPConnectionPool),
        "https": _timely(urllib3.HTTPSConnectionPool),
    }
    return pool


def _timely(pool: Any) -> Any:
    """The kind of pool, with answers that have a deadline."""
    connection = type("Connection", (pool.ConnectionCls,), {"response_class": _Answer})
    return type("Pool", (pool,), {"ConnectionCls": connection})


class _Answer(http.client.HTTPResponse):
    """One answer; the timeout that urllib3 set for a read is the time for all of them."""

    def __init__(self, sock: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        if sock.gettimeout() is not None:
            self.fp.close()
            self.fp = io.BufferedReader(_Until(time.monotonic() + sock.gettimeout(), sock))


class _Until(io.RawIOBase):
    """What a socket receives until a deadline."""

    def __init__(self, deadline: float, sock: Any) -> None:
        self._deadline, self._socket, self._received = deadline, sock, sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer is not whole in time")
        self._socket.settimeout(left)
        return self._received.readinto(buffer)

    def close(self) -> None:
        self._received.close()
        super().close()
