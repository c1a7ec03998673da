"""A client of an OpenAI-compatible server: JSON in, JSON out, tried again while a fault may pass."""

from __future__ import annotations

import json
import os
from typing import Any

from posttrain.connections import PASSING, RETRIES, connections
from posttrain.errors import ConfigError, ServerError

KEY_VARIABLE = "VLLM_API_KEY"  # the one that the server itself takes its key from


class Client:
    """Bound to one server; safe to use from many threads."""

    def __init__(self, url: str, timeout: float, at_once: int) -> None:
        self.url, self.at_once = url.rstrip("/").removesuffix("/v1"), at_once
        self._connections = connections(at_once, timeout, os.environ.get(KEY_VARIABLE, ""))

    def get(self, path: str) -> dict[str, Any]:
        """What lies at a path.

        Raises:
            ConfigError: the server refused, or is no such server.
            ServerError: it did not answer, however often it was asked.
        """
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request. Raises as `get`."""
        return self._ask("POST", path, json.dumps(body).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        import urllib3

        try:
            answer = self._connections.request(method, self.url + path, body=body, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise self._failed(path, str(getattr(error, "reason", None) or error)) from None
        said = _parsed(answer.data)
        if answer.status in PASSING:
            raise self._failed(path, f"{answer.status} {_message(said, answer)}")
        if answer.status != 200 or said is None:
            remedy = f"; set {KEY_VARIABLE}" if answer.status in (401, 403) else ""
            raise ConfigError(
                f"server_url={self.url}: {path} was refused: {answer.status} {_message(said, answer)}{remedy}"
            )
        return said

    def _failed(self, path: str, fault: str) -> ServerError:
        return ServerError(
            f"server_url={self.url}: {path} failed {RETRIES + 1} times, last with: {fault}; is it running, and in time?"
        )


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _message(said: dict[str, Any] | None, answer: Any) -> str:
    """What the server says of a refusal, in one line."""
    error = (said or {}).get("error", said)
    text = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(text or answer.reason or "no JSON object").split())[:300]
