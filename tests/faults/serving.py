"""The process of the proxy: a thread per connection passes requests and answers on, or breaks them by the plan."""

from __future__ import annotations

import json
import os
import random
import re
import select
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import urlsplit

from tests.faults.proxy import AFTER, BEFORE, BODY, REFUSALS, SENDING, Injected, Plan
from tests.faults.wire import Head, Pace, Peer, wide_pipe


@dataclass
class _Progress:
    """Where the plan stands; shared by all connections."""

    plan: Plan = field(default_factory=Plan)
    injected: list[Injected] = field(default_factory=list)
    made: Counter[str] = field(default_factory=Counter)
    matched: int = 0
    planned: int = 0
    expired: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def follow(self, plan: Plan) -> None:
        with self.lock:
            self.plan, self.matched, self.planned = plan, 0, 0
            self.made.clear()

    def fault(self, request: Head) -> str:
        """The kind that this request is to meet; "" for none. A token that has expired stays so."""
        if request.field("x-amz-security-token") in self.expired:
            return "expired"
        name, plan = _name(request), self.plan
        with self.lock:
            if not re.search(plan.only, name) or self.planned >= plan.most:
                return ""
            self.matched += 1
            self.made[name] += 1
            if self.matched <= len(plan.script):
                kind = plan.script[self.matched - 1]
            else:
                chance = random.Random(f"{plan.seed} {name} {self.made[name]}")
                can = [kind for kind in plan.kinds if _can_meet(request, kind)]
                kind = chance.choice(can) if can and chance.random() < plan.rate else ""
            self.planned += bool(kind)
        return kind

    def happened(self, kind: str, request: Head) -> None:
        with self.lock:
            if kind == "expired" and (token := request.field("x-amz-security-token")):
                if token in self.expired:
                    return
                self.expired.add(token)
            self.injected.append(Injected(kind, _name(request)))

    def taken(self) -> list[tuple[str, str]]:
        with self.lock:
            taken, self.injected = self.injected, []
        return [(item.kind, item.request) for item in taken]


def _name(request: Head) -> str:
    """Method and target; without what differs from run to run."""
    return re.sub(r"uploadId=[^&]*", "uploadId=", " ".join(request.words[:2]))


def _can_meet(request: Head, kind: str) -> bool:
    method, target = request.words[:2]
    if kind in BODY:
        return method == "GET" and "list-type" not in target and target.count("/") > 1
    return kind not in SENDING or request.length > 1


class _Over(Exception):
    """This connection has served its turn."""


class _Connection:
    """A client's connection and the one to the server behind it."""

    def __init__(self, client: socket.socket, server: tuple[str, int], progress: _Progress) -> None:
        self.client, self._address, self._progress = Peer(client), server, progress
        self._pipe = wide_pipe()

    def serve(self) -> None:
        try:
            with suppress(OSError, _Over), self.client.socket, socket.create_connection(self._address) as server:
                self.server = Peer(server)
                while True:
                    self._exchange(self.client.head())
        finally:
            for end in self._pipe:
                os.close(end)

    def _exchange(self, request: Head) -> None:
        plan, kind = self._progress.plan, self._progress.fault(request)
        self._pace = Pace(plan.bandwidth)
        time.sleep(plan.latency)
        if kind in REFUSALS:
            self._refuse(kind, request)
        if kind in BEFORE:
            self._break(kind, request)
        if select.select([self.server.socket], [], [], 0)[0]:  # closed by the server while nobody used it
            self.server = Peer(socket.create_connection(self._address))
        self._send(request, kind)
        answer = self.server.head()
        if kind in AFTER:
            self._lose(kind, request, answer)
        if kind in BODY and answer.length > 1 and answer.words[1] in ("200", "206"):
            self._spoil(kind, request, answer)
        else:
            self._pass_answer_on(request, answer)

    def _send(self, request: Head, kind: str) -> None:
        self.server.socket.sendall(request.raw)
        if request.field("expect"):
            self._wait_for_go_ahead()
        if kind in SENDING and request.length > 1:
            self._pass_on(self.client, self.server, request.length // 2)
            self._break(kind, request)
        if request.chunked:
            self.client.pass_chunks_on(self.server, self._pace, self._pipe)
        else:
            self._pass_on(self.client, self.server, request.length)

    def _wait_for_go_ahead(self) -> None:
        """The server's `100 Continue`, unless the client sends its body without."""
        ready, _, _ = select.select([self.server.socket, self.client.socket], [], [])
        if self.server.socket in ready:
            answer = self.server.head()
            self.client.socket.sendall(answer.raw)
            if answer.words[1] != "100":
                raise _Over

    def _pass_answer_on(self, request: Head, answer: Head) -> None:
        self.client.socket.sendall(answer.raw)
        if answer.chunked:
            self.server.pass_chunks_on(self.client, self._pace, self._pipe)
        elif request.words[0] != "HEAD":
            self._pass_on(self.server, self.client, answer.length)
        if answer.field("connection").lower() == "close":
            raise _Over

    def _refuse(self, kind: str, request: Head) -> None:
        """Answer in the server's stead."""
        if not request.field("expect"):
            self.client.drop(request.length)
        self._progress.happened(kind, request)
        self._answer_with_error(*REFUSALS[kind], request)

    def _lose(self, kind: str, request: Head, answer: Head) -> None:
        """The server has done it, and the client does not learn of it."""
        if request.words[0] != "HEAD":
            self.server.drop(answer.length)
        if kind != "error_after":
            self._break(kind, request)
        self._progress.happened(kind, request)
        self._answer_with_error(*REFUSALS["error_500"], request)

    def _spoil(self, kind: str, request: Head, answer: Head) -> None:
        """Break the body of an object."""
        middle = answer.length // 2
        self._progress.happened(kind, request)
        head = answer.raw
        if kind == "shortened":
            head = re.sub(rb"(?i)content-length: *\d+", b"Content-Length: %d" % middle, head)
        self.client.socket.sendall(head)
        if kind == "dripped":
            self._pace = Pace(self._progress.plan.drip)
            self._pass_on(self.server, self.client, answer.length)
            return
        self._pass_on(self.server, self.client, middle)
        if kind in ("truncated", "shortened"):
            raise _Over
        if kind == "flipped":
            byte = self.server.take(1)[0]
            self.client.socket.sendall(bytes([byte ^ 1 << middle % 8]))
            self._pass_on(self.server, self.client, answer.length - middle - 1)
        else:
            self._break(kind, request, counted=True)

    def _break(self, kind: str, request: Head, counted: bool = False) -> None:
        """End the connection by a reset; at once, or after a silence."""
        if not counted:
            self._progress.happened(kind, request)
        if kind.startswith("stall"):
            with suppress(TimeoutError):
                self.client.socket.settimeout(self._progress.plan.stall)
                while self.client.take(1 << 16):  # ends when the client gives up
                    pass
        self.client.reset()
        raise _Over

    def _answer_with_error(self, status: int, code: str, request: Head) -> None:
        body = f"<Error><Code>{code}</Code><Message>injected by the proxy</Message></Error>"
        head = (
            f"HTTP/1.1 {status} {code}\r\nDate: {formatdate(usegmt=True)}\r\nContent-Type: application/xml\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.client.socket.sendall((head + body * (request.words[0] != "HEAD")).encode())
        raise _Over

    def _pass_on(self, source: Peer, sink: Peer, count: int) -> None:
        source.pass_on(sink, count, self._pace, self._pipe)


def _accept(listener: socket.socket, server: tuple[str, int], progress: _Progress) -> None:
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_Connection(client, server, progress).serve, daemon=True).start()


def _main(upstream: str) -> None:
    parts = urlsplit(upstream)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    progress = _Progress()
    address = (parts.hostname or "", parts.port or 80)
    threading.Thread(target=_accept, args=(listener, address, progress), daemon=True).start()
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    for line in sys.stdin:
        plan = json.loads(line)
        if plan is not None:
            progress.follow(Plan(**plan))
        print(json.dumps([] if plan else progress.taken()), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1])
