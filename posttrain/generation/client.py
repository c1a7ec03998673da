"""A client of an OpenAI-compatible server: JSON in, JSON out, tried again while a fault may pass."""

from __future__ import annotations

import json
import os
from typing import Any

from posttrain.errors import ConfigError, ServerError

KEY_VARIABLE = "VLLM_API_KEY"  # the one that the server itself takes its key from
_TRIES = 6
_PAUSE = 1.0  # seconds: at once, then after 2, 4, 8 and 16: about what a proxy takes to move a server
_LONGEST_PAUSE = 60.0  # whatever Retry-After says
_PASSING = (408, 429, 500, 502, 503, 504)


class Client:
    """Bound to one server; safe to use from many threads."""

    def __init__(self, url: str, timeout: float, at_once: int) -> None:
        import urllib3

        self.url = url.rstrip("/").removesuffix("/v1")
        key = os.environ.get(KEY_VARIABLE)
        self._pool = urllib3.PoolManager(
            maxsize=at_once,
            headers={"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})},
            timeout=urllib3.Timeout(connect=10, read=timeout),
            retries=urllib3.Retry(
                total=_TRIES - 1,
                redirect=False,
                allowed_methods=None,  # a POST too: this one changes nothing
                status_forcelist=_PASSING,
                raise_on_status=False,
                backoff_factor=_PAUSE,
                backoff_max=_LONGEST_PAUSE,
                retry_after_max=int(_LONGEST_PAUSE),
            ),
        )

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
            answer = self._pool.request(method, self.url + path, body=body, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise self._failed(path, str(getattr(error, "reason", None) or error)) from None
        said = _parsed(answer.data)
        if answer.status in _PASSING:
            raise self._failed(path, f"{answer.status} {_message(said, answer)}")
        if answer.status != 200 or said is None:
            remedy = f"; set {KEY_VARIABLE}" if answer.status in (401, 403) else ""
            raise ConfigError(
                f"server_url={self.url}: {path} was refused: {answer.status} {_message(said, answer)}{remedy}"
            )
        return said

    def _failed(self, path: str, fault: str) -> ServerError:
        return ServerError(
            f"server_url={self.url}: {path} failed {_TRIES} times, last with: {fault}; is it running, and in time?"
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
