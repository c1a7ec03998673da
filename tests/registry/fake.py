"""A Model Registry's API in memory, as the real server (0.3.0) answers, with faults to order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = re.compile("/api/model_registry/v1(alpha3)?/")  # the installed client's, whichever it is
Thing = dict[str, Any]


@dataclass
class Fake:
    """What it has, by kind. `fault` is asked before each deed and after it, and may answer with a status and a text."""

    url: str = ""
    token: str = ""
    things: dict[str, list[Thing]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fault: Any = lambda when, what: None

    def answer(self, method: str, target: str, body: Thing | None, token: str) -> tuple[int, Any]:
        url = urlsplit(target)
        if not API.match(url.path):
            return 404, "404 page not found"
        if token != (f"Bearer {self.token}" if self.token else token):
            return 401, "RBAC: access denied"
        path = API.sub("", url.path).split("/")
        what = f"{method} {path[-1] if len(path) != 2 else path[0]}"
        self.asked.append(what)
        if failed := self.fault("before", what):
            return failed
        answer = self._do(method, path, parse_qs(url.query), body)
        return self.fault("after", what) or answer

    def _do(self, method: str, path: list[str], query: dict[str, list[str]], body: Thing | None) -> tuple[int, Any]:
        kind, parent = path[-1] if len(path) == 3 else path[0], path[1] if len(path) == 3 else ""
        if kind == "registered_model":
            found = [each for each in self.things.get("registered_models", []) if each["name"] == query["name"][0]]
            return (200, found[0]) if found else (404, {"code": "Not Found", "message": "no registered model found"})
        kind = {"versions": "model_versions"}.get(kind, kind)
        there = self.things.setdefault(kind, [])
        if method == "PATCH":
            changed = next(each for each in there if each["id"] == path[1])
            changed.update({key: value for key, value in body.items() if value is not None})
            return 200, changed
        parent = parent or (body or {}).get("registeredModelId", "")
        mine = [each for each in there if each.get("parent", "") == parent]
        if method == "GET":
            return 200, {"items": mine, "nextPageToken": "", "pageSize": 0, "size": len(mine)}
        if any(each["name"] == body["name"] for each in mine):
            return 409, {"code": "Conflict", "message": f"{body['name']} already exists: conflict"}
        there.append({**body, "id": str(1 + len(there)), "parent": parent, "state": "LIVE"})
        return 201, there[-1]


@contextmanager
def serving() -> Iterator[Fake]:
    fake = Fake()

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            status, said = fake.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            content = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(said, str) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    yield fake
    server.shutdown()
    server.server_close()
