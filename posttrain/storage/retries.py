"""Trying again what may yet succeed: bounded in time, with jitter, and never what a retry cannot mend."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

# Seconds. A wait is drawn from (0, the doubled last one), so that many do not come at once.
SHORTEST, LONGEST = 0.1, 10.0

# What stores answer when they are overloaded, restarting, or got a request that suffered on the way.
_PASSING = {
    "500", "502", "503", "504", "429", "InternalError", "ServiceUnavailable", "SlowDown", "SlowDownRead",
    "SlowDownWrite", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "RequestTimeout",
    "BadDigest", "XAmzContentChecksumMismatch", "IncompleteBody", "OperationAborted", "ConditionalRequestConflict",
    "ExpiredToken", "RequestTimeTooSkewed",
}  # fmt: skip

# A generator of its own: training's random numbers must not depend on how often a store failed.
_JITTER = random.Random()


class Damaged(Exception):
    """Other bytes arrived than were sent; the next time they may be right."""


class Stopped(Exception):
    """Another part of the transfer failed for good."""


class GaveUp(Exception):
    """The budget is spent; `__cause__` is the last failure."""

    def __init__(self, tries: int, seconds: float) -> None:
        super().__init__(f"tried {tries} times in {seconds:.0f} s")


class Retries:
    """Calls again what failed, until it succeeds or has failed for `patience` seconds; `stop` ends all its waits.

    Args:
        passes: whether what failed so may succeed later; by default what stores and networks do.
    """

    def __init__(self, patience: float, passes: Callable[[Exception], bool] | None = None) -> None:
        self._patience, self._stopped = patience, threading.Event()
        self._passes = passes or may_pass

    def __call__(self, work: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """The result of `work(*args, **kwargs)`.

        Raises:
            GaveUp: it failed in ways that may pass for as long as the patience lasts.
            Stopped: `stop` was called meanwhile.
        """
        tries, began = 0, 0.0
        while not self.stopped:
            try:
                return work(*args, **kwargs)
            except Exception as error:
                now, tries = time.monotonic(), tries + 1
                began = began or now
                wait = _JITTER.uniform(0, min(LONGEST, SHORTEST * 2**tries))
                if not self._passes(error):
                    raise
                if now + wait > began + self._patience:
                    raise GaveUp(tries, now - began) from error
            self._stopped.wait(wait)
        raise Stopped

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Wait for nothing any more."""
        self._stopped.set()


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    from http.client import HTTPException

    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    from posttrain.errors import PosttrainError

    if isinstance(error, boto.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status == 501:  # the store lacks what is asked for
            return False
        return status >= 500 or status == 429 or error.response["Error"]["Code"] in _PASSING
    if isinstance(error, PosttrainError):
        return False
    if isinstance(error, boto.SSLError):  # a certificate stays as it is; a server that restarts hangs up
        return "EOF occurred" in str(error)
    network = (boto.HTTPClientError, boto.ConnectionError, HTTPError, HTTPException, ConnectionError, TimeoutError)
    spoiled = (Damaged, boto.IncompleteReadError, boto.FlexibleChecksumError, ResponseParserError)
    return isinstance(error, network + spoiled)
