"""A server that answers as Kubeflow Pipelines' API does where deployments ask it, and can be made to fail.

It keeps what KFP keeps and allows what it allows: pipelines and versions are unique by name, recurring runs are not.
The real one is in tests/cluster.
"""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

KINDS = {
    "pipelines": "pipeline_id",
    "experiments": "experiment_id",
    "recurringruns": "recurring_run_id",
    "runs": "run_id",
}
LISTED = {"recurringruns": "recurringRuns", "versions": "pipeline_versions"}


class Kept:
    """What the server holds, and how it is to fail: a share of requests, before or after doing what they ask."""

    def __init__(self) -> None:
        self.things: dict[str, list[dict[str, Any]]] = {kind: [] for kind in (*KINDS, "versions")}
        self.asked: list[str] = []
        self.failing = 0.0
        self.random = random.Random(0)
        self.refusal: tuple[int, str] | None = None
        self.seen_authorization: set[str] = set()
        self.lock = threading.Lock()
        self.numbers = count(1)

    def named(self, kind: str) -> list[str]:
        """The names of all of a kind."""
        return [each["display_name"] for each in self.things[kind]]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    kept: Kept
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: two wait for each other

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def _answer(self) -> None:
        kept, body = self.kept, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with kept.lock:
            kept.seen_authorization.add(self.headers.get("Authorization", ""))
            kept.asked.append(f"{self.command} {urlsplit(self.path).path}")
            fails = kept.random.random() < kept.failing
            if kept.refusal:
                self._say(kept.refusal[0], {"error_message": kept.refusal[1]})
            elif fails and kept.random.random() < 0.5:
                self._say(503, {"error": "the server is overloaded"})
            else:
                status, answer = self._do(body)
                if fails:  # done, and the answer is lost
                    self.close_connection = True
                else:
                    self._say(status, answer)

    def _say(self, status: int, answer: Any) -> None:
        plain = isinstance(answer, str)
        content = answer.encode() if plain else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if plain else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _do(self, body: bytes) -> tuple[int, Any]:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        parts = url.path.removeprefix("/apis/v2beta1/").split("/")
        if parts[:2] == ["pipelines", "upload_version"]:
            package = re.search(rb"\r\n\r\n(.*)\r\n--", body, re.S)
            documents = [*yaml.safe_load_all(package[1])] if package else [None]
            spec = (
                dict(zip(("pipeline_spec", "platform_spec"), documents, strict=True)) if documents[1:] else documents[0]
            )
            made = {"pipeline_id": query["pipelineid"], "display_name": query["name"], "pipeline_spec": spec}
            return self._made("versions", "pipeline_version_id", made, unique=True)
        if len(parts) > 2 and parts[2] == "versions":
            return self._versions(parts[1], parts[3:], query)
        kind, key = parts[0], KINDS.get(parts[0], "")
        if not key:
            return 404, {"error_message": "Not Found"}
        if self.command == "POST" and len(parts) > 1:
            wanted, _, verb = parts[1].partition(":")
            return self._one(kind, key, wanted, mode=verb.upper())
        if self.command == "POST":
            return self._made(kind, key, json.loads(body), unique=kind == "pipelines")
        if len(parts) > 1:
            return self._one(kind, key, parts[1])
        return 200, self._page(kind, self.kept.things[kind], query)

    def _made(self, kind: str, key: str, made: dict[str, Any], unique: bool) -> tuple[int, Any]:
        there = [each for each in self.kept.things[kind] if each.get("pipeline_id") == made.get("pipeline_id")]
        if unique and made["display_name"] in [each["display_name"] for each in there]:
            return 409, {"error_message": f"{made['display_name']} already exists"}
        number = next(self.kept.numbers)
        made |= {
            key: f"{kind}-{number}",
            "created_at": f"2026-01-01T{number // 60:02}:{number % 60:02}:00Z",
            "order": number,
        }
        self.kept.things[kind].append(made)
        return 200, made

    def _one(self, kind: str, key: str, wanted: str, **change: Any) -> tuple[int, Any]:
        found = next((each for each in self.kept.things[kind] if each[key] == wanted), None)
        if found is None:
            return 404, {"error_message": f"{wanted} not found"}
        if self.command == "DELETE":
            self.kept.things[kind].remove(found)
            return 200, {}
        found |= change
        return 200, found

    def _versions(self, pipeline: str, rest: list[str], query: dict[str, str]) -> tuple[int, Any]:
        if rest:
            return self._one("versions", "pipeline_version_id", rest[0])
        mine = [each for each in self.kept.things["versions"] if each["pipeline_id"] == pipeline]
        return 200, self._page("versions", sorted(mine, key=lambda each: -each["order"]), query)

    def _page(self, kind: str, things: list[dict[str, Any]], query: dict[str, str]) -> Any:
        for predicate in json.loads(query.get("filter", "{}")).get("predicates", []):
            values = predicate.get("stringValues", {}).get("values", [predicate.get("stringValue")])
            things = [each for each in things if each.get(predicate["key"]) in values]
        # Two to a page, so that whoever does not turn pages is found out.
        start = int(query.get("page_token") or 0)
        page = {LISTED.get(kind, kind): things[start : start + 2]}
        return page | ({"next_page_token": str(start + 2)} if start + 2 < len(things) else {})


@contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[tuple[str, Kept]]:
    """Kubeflow Pipelines on an address of this machine: its URL and what it keeps."""
    kept = Kept()
    with listening(Handler, kept, host) as url:
        yield url, kept


@contextmanager
def listening(handler: type[Handler], kept: Kept, host: str = "127.0.0.1") -> Iterator[str]:
    """A server on an address of this machine; its URL."""
    server = ThreadingHTTPServer((host, 0), type("Bound", (handler,), {"kept": kept}))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
