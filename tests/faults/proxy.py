"""A proxy between an S3 client and its server that breaks what passes by a seeded plan, or slows it to a store's pace.

It runs in a process of its own. Heads are forwarded byte for byte (Host too), so signatures stay valid.

    with proxy(server.url, Plan(seed=3, rate=0.2)) as broken:   # broken.url is the endpoint
        ...
        broken.injected()                                       # what was broken since the last look

    with shaped(server.url) as slow:                            # 20 ms a request, 25 MB/s a connection
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

# What is answered in the server's stead, which never hears of the request: status and S3 code.
REFUSALS = {
    "error_500": (500, "InternalError"),
    "error_502": (502, "BadGateway"),
    "slow_down": (503, "SlowDown"),
    "skewed": (403, "RequestTimeTooSkewed"),
    "expired": (403, "ExpiredToken"),
}
# What befalls any request before the server hears of it; one with a body in its middle; any once the server did it.
BEFORE = ("reset_before", "stall_before")
SENDING = ("reset_sending",)
AFTER = ("reset_after", "error_after", "stall_after")
# What befalls the body of an object on its way to the client.
BODY = ("reset_body", "truncated", "shortened", "flipped", "stalled", "dripped")
KINDS = (*REFUSALS, *BEFORE, *SENDING, *AFTER, *BODY)


@dataclass(frozen=True)
class Plan:
    """What is to go wrong, or be slow.

    Args:
        seed, rate: each request meets a fault with this chance, decided by the seed, the request and how often it was
            made, whatever order the threads of a client make them in.
        kinds: the kinds to choose from, evenly, among those that a request can meet.
        script: kinds that the first requests meet instead, in this order; "" for none.
        only: a regular expression for `METHOD /target`; other requests pass.
        most: faults in all.
        latency, bandwidth: seconds a request, bytes a second and connection.
        stall: seconds that a stalled connection is held, if the client does not give up first.
        drip: bytes a second of a dripping body.
    """

    seed: int = 0
    rate: float = 0.0
    kinds: tuple[str, ...] = KINDS
    script: tuple[str, ...] = ()
    only: str = ""
    most: int = 1 << 30
    latency: float = 0.0
    bandwidth: float = float("inf")
    stall: float = 30.0
    drip: float = 100e3


@dataclass(frozen=True)
class Injected:
    """A fault that was injected: its kind, and the request that met it."""

    kind: str
    request: str


class Proxy:
    """The proxy, seen from the process that started it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process, self._lock = process, threading.Lock()
        self.url = self._line()

    def follow(self, plan: Plan) -> None:
        """Go on by another plan; its script and its counts begin anew."""
        self._ask(json.dumps(asdict(plan)))

    def injected(self) -> list[Injected]:
        """What was injected since the last look."""
        return [Injected(*item) for item in json.loads(self._ask("null"))]

    def counts(self) -> Counter[str]:
        """The same by kind."""
        return Counter(item.kind for item in self.injected())

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the proxy has ended")
        return line.strip()


@contextmanager
def proxy(upstream: str, plan: Plan) -> Iterator[Proxy]:
    """A proxy before the server at `upstream`, gone afterwards."""
    command = [sys.executable, "-m", "tests.faults.serving", upstream]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            started = Proxy(process)
            started.follow(plan)
            yield started
        finally:
            process.kill()


@contextmanager
def shaped(upstream: str, latency: float = 0.02, bandwidth: float = 25e6) -> Iterator[Proxy]:
    """A proxy that breaks nothing and feels like a real store."""
    with proxy(upstream, Plan(latency=latency, bandwidth=bandwidth)) as started:
        yield started
