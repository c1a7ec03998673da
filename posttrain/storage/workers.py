"""Threads for the requests of one transfer, which all stop when one fails for good."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, TypeVar

from posttrain.storage.retries import Retries

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """`connections` threads; everything that runs on them is tried again while the patience lasts."""

    def __init__(self, connections: int, patience: float) -> None:
        self.retries = Retries(patience)
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="storage")
        self._started: list[Future[Any]] = []

    def start(self, work: Callable[..., Result], *args: Any) -> Future[Result]:
        """Do it when a thread is free."""
        future = self._pool.submit(self.retries, work, *args)
        self._started.append(future)
        return future

    def all(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results for many, in order."""
        futures = [self.start(work, item) for item in items]
        self.join()
        return [future.result() for future in futures]

    def join(self) -> None:
        """Wait for all that was started.

        Raises:
            Exception: the first failure, as soon as there is one.
        """
        for future in wait(self._started, return_when=FIRST_EXCEPTION).done:
            future.result()
        self._started.clear()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self.retries.stop()
        self._pool.shutdown(cancel_futures=True)
