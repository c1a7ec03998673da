"""An OpenAI-compatible endpoint: configured by the environment, asked with retries, its replies kept on disk.

| variable | what | default |
|---|---|---|
| POSTTRAIN_JUDGE_URL | where `/chat/completions` is, as https://api.example.com/v1 | |
| POSTTRAIN_JUDGE_MODEL | the model to ask for | |
| POSTTRAIN_JUDGE_KEY | sent as bearer token; never logged, recorded or kept | none |
| POSTTRAIN_JUDGE_AT_ONCE | requests at the same time | 16 |
| POSTTRAIN_JUDGE_TIMEOUT | seconds in which a whole reply must be there | 120 |
| POSTTRAIN_JUDGE_TOKENS | longest reply, in tokens | 1024 |
| POSTTRAIN_JUDGE_CACHE | directory of replies; `off` keeps none | ~/.cache/posttrain/judge |
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from posttrain.connections import PASSING, RETRIES, connections
from posttrain.errors import JudgeError, VerifierError

log = logging.getLogger(__name__)

PREFIX = "POSTTRAIN_JUDGE_"
CACHE = "~/.cache/posttrain/judge"
MISCONFIGURED = (301, 302, 307, 308, 401, 402, 403, 404, 405)


@dataclass(frozen=True)
class Judge:
    """One judge, as configured."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    at_once: int = 16
    timeout_s: int = 120
    tokens: int = 1024
    cache: str = CACHE

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


class Reply(NamedTuple):
    """What the judge said, and what the server said it is."""

    text: str
    server: str


def configured() -> Judge:
    """The judge that the environment names.

    Raises:
        VerifierError: it names none, or a value cannot be used.
    """
    given = {name: os.environ.get(PREFIX + name, "").strip() for name in ("URL", "MODEL", "KEY")}
    for name in ("URL", "MODEL"):
        if not given[name]:
            raise VerifierError(f"judge: {PREFIX}{name} is not set; name an OpenAI-compatible endpoint and its model")
    parts = urlsplit(given["URL"])
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        # Not the value: it may hold a password.
        raise VerifierError(f"judge: {PREFIX}URL must be http(s)://host[:port]/path, with nothing secret in it")
    return Judge(
        given["URL"].rstrip("/"),
        given["MODEL"],
        given["KEY"],
        _number("AT_ONCE", Judge.at_once),
        _number("TIMEOUT", Judge.timeout_s),
        _number("TOKENS", Judge.tokens),
        os.environ.get(PREFIX + "CACHE") or CACHE,
    )


def _number(name: str, usual: int) -> int:
    text = os.environ.get(PREFIX + name) or str(usual)
    if not text.isdecimal() or not 0 < int(text) <= 100_000:
        raise VerifierError(f"judge: {PREFIX}{name}={text!r} must be a number from 1")
    return int(text)


def ask(judge: Judge, messages: list[dict[str, str]], worth_keeping: Callable[[str], bool]) -> Reply:
    """The judge's reply, from the cache if it was asked the very same before.

    Raises:
        VerifierError: the endpoint refuses the key, or has no such model or address.
        JudgeError: it could not be reached or had no time, several times; a retry may help.
        RuntimeError: it refuses this request.
    """
    request = {"model": judge.model, "messages": messages, "temperature": 0, "seed": 0, "max_tokens": judge.tokens}
    body = json.dumps(request, sort_keys=True).encode()
    kept = _Kept(judge, hashlib.sha256(judge.url.encode() + b"\0" + body).hexdigest())
    reply = kept.read()
    if reply is None:
        reply = _reply(_post(judge, body))
        if worth_keeping(reply.text):
            kept.write(reply)
    return reply


def _post(judge: Judge, body: bytes) -> bytes:
    import urllib3

    try:
        answer = _connections(os.getpid(), judge).request(
            "POST", f"{judge.url}/chat/completions", body=body, redirect=False
        )
    except urllib3.exceptions.HTTPError as error:
        raise JudgeError(f"judge: {judge.host} does not answer: {_said(judge, error)}; try again later") from None
    if answer.status in PASSING:
        raise JudgeError(f"judge: {judge.host} answers {answer.status} after {RETRIES} retries; try again later")
    said = f"judge: {judge.host} answers {answer.status}: {_said(judge, answer.data[:200].decode(errors='replace'))}"
    if answer.status in MISCONFIGURED:
        raise VerifierError(f"{said}; is {PREFIX}URL, {PREFIX}MODEL or {PREFIX}KEY wrong?")
    if answer.status != 200:
        raise RuntimeError(said)
    return answer.data


@functools.cache
def _connections(process: int, judge: Judge) -> Any:
    """Connections of this process: one that was forked must not read another's replies."""
    return connections(judge.at_once, judge.timeout_s, judge.key)


def _said(judge: Judge, words: object) -> str:
    """In one line, without the key, which some servers repeat."""
    text = " ".join(str(words).split())
    return text.replace(judge.key, "…") if judge.key else text


def _reply(data: bytes) -> Reply:
    """What the answer holds; a nonsensical one, or one that was cut off before its end, says nothing."""
    try:
        answer = json.loads(data)
        choice = answer["choices"][0]
        text = choice["message"]["content"] if choice.get("finish_reason") != "length" else ""
        names = [str(answer[name]) for name in ("model", "system_fingerprint") if answer.get(name)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Reply("", "unknown")
    return Reply(text if isinstance(text, str) else "", " ".join(names)[:200] or "unknown")


class _Kept:
    """One reply on disk, a file named by the digest of all that was asked: written whole or not at all."""

    def __init__(self, judge: Judge, digest: str) -> None:
        folder = Path(judge.cache).expanduser()
        self.file = None if judge.cache == "off" else folder / digest[:2] / f"{digest}.json"

    def read(self) -> Reply | None:
        if self.file is None:
            return None
        try:
            return Reply(**json.loads(self.file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, reply: Reply) -> None:
        if self.file is None:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.file.parent) as aside:
                whole = Path(aside) / "reply"
                whole.write_text(json.dumps(reply._asdict()), encoding="utf-8")
                whole.replace(self.file)
        except OSError as error:  # a pod with a read-only root, a full disk
            _warn_once(str(self.file.parents[1]), str(error.strerror))


@functools.cache
def _warn_once(folder: str, reason: str) -> None:
    log.warning("judge: replies are not kept, %s: %s; name another directory in %sCACHE", folder, reason, PREFIX)
