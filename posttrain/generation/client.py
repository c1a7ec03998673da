"""A client of an OpenAI-compatible server: JSON in, JSON out, tried again while a fault may pass."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from posttrain.errors import ConfigError, ServerError

KEY_VARIABLE = "VLLM_API_KEY"  # the one that the server itself takes its key from
_TRIES = 6
_FIRST_PAUSE = 1.0  # seconds, doubled each time: half a minute in all, about what a proxy takes to move a server
_PASSING = {408, 429, 500, 502, 503, 504}


class Client:
    """Bound to one server; safe to use from many threads."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._timeout = timeout

    def get(self, path: str) -> dict[str, Any]:
        """What lies at a path.

        Raises:
            ConfigError: the server refused.
            ServerError: it did not answer, however often it was asked.
        """
        return self._ask(path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request. Raises as `get`."""
        return self._ask(path, json.dumps(body).encode())

    def _ask(self, path: str, body: bytes | None) -> dict[str, Any]:
        fault = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                return self._ask_once(path, body)
            except urllib.error.HTTPError as error:
                fault = f"{error.code} {_message(error)}"
                if error.code not in _PASSING:
                    remedy = f"; set {KEY_VARIABLE}" if error.code in (401, 403) else ""
                    raise ConfigError(f"server_url={self.url}: {path} was refused: {fault}{remedy}") from None
            except (OSError, HTTPException, ValueError) as error:  # reset, timeout, an answer cut short
                fault = str(error) or type(error).__name__
        raise ServerError(f"server_url={self.url}: {path} failed {_TRIES} times, last with: {fault}; is it running?")

    def _ask_once(self, path: str, body: bytes | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url + path, body, headers)
        with urllib.request.urlopen(request, timeout=self._timeout) as response:
            answer = json.load(response)
        if not isinstance(answer, dict):
            raise ValueError(f"{type(answer).__name__} instead of an object")
        return answer


def _message(error: urllib.error.HTTPError) -> str:
    """What the server says of it, in one line."""
    try:
        said = json.load(error)
        said = said.get("error", said)
        text = said.get("message", said) if isinstance(said, dict) else said
    except (OSError, ValueError, AttributeError, HTTPException):
        text = error.reason
    return " ".join(str(text).split())[:300]
