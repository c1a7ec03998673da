"""Processes that run a verifier with a deadline.

SymPy, `re` and Reasoning Gym's scorers can be made to run for ever by a completion, and a thread cannot be stopped. A
worker can: it imports one verifier once, answers one request after another, and is killed when an answer is late. It
knows no secrets (its environment is nearly empty) and may use a bounded amount of memory. It is *not* a sandbox.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Connection, Pipe
from typing import Any

from posttrain.errors import VerifierError
from posttrain.verifiers.verdict import Verdict

DEADLINE_S = 10.0
STARTUP_S = 120.0  # Reasoning Gym takes 9 s to import on a busy core
MEMORY_BYTES = 8 << 30
AT_ONCE = min(os.cpu_count() or 1, 8)
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


class NotStarted(VerifierError):
    """The verifier cannot be had on this machine, whatever the reference."""


class Remote:
    """A verifier module elsewhere: the same two functions, run by workers."""

    def __init__(self, module: str) -> None:
        self.module = module
        self._forget()
        os.register_at_fork(after_in_child=self._forget)  # two processes must not talk to one worker
        atexit.register(self._forget)

    def _forget(self) -> None:
        self._idle: list[_Worker] = []
        self._room = threading.BoundedSemaphore(AT_ONCE)

    def verify(self, completion: str, reference: Any, prompt: str = "") -> Verdict:
        return Verdict(**self._ask("verify", completion, reference, prompt))

    def validate(self, reference: Any) -> str | None:
        return self._ask("validate", reference)

    def at_once(self) -> int:
        return AT_ONCE

    def _ask(self, *request: Any) -> Any:
        try:
            message = json.dumps(request).encode()
        except (TypeError, ValueError) as error:
            raise VerifierError(f"{self.module.rpartition('.')[2]}: the reference is not JSON: {error}") from error
        with self._room:
            try:
                worker = self._idle.pop()
            except IndexError:
                worker = None
            if worker is None or worker.process.poll() is not None:  # killed for memory while idle, say
                worker = _Worker(self.module)
            try:
                reply = worker.ask(message)
            except BaseException:
                worker.process.kill()
                worker.process.wait()
                raise
            self._idle.append(worker)
        if "refused" in reply:
            raise VerifierError(reply["refused"])
        if "raised" in reply:
            raise RuntimeError(reply["raised"])
        return reply["result"]


class _Worker:
    def __init__(self, module: str) -> None:
        self.connection, there = Pipe()
        path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
        kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
        self.process = subprocess.Popen(
            # -P: a file named math.py in the working directory must not be imported.
            [sys.executable, "-P", "-c", f"from {__name__} import serve; serve({there.fileno()}, {module!r})"],
            env={**kept, "PYTHONPATH": path, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"},
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        there.close()
        try:
            complaint = self._receive(STARTUP_S)
        except (EOFError, OSError) as error:
            complaint = f"{module.rpartition('.')[2]}: its worker process does not start: {error!r}"
        if complaint is not None:
            self.process.kill()
            self.process.wait()
            raise NotStarted(complaint)

    def ask(self, message: bytes) -> dict[str, Any]:
        self.connection.send_bytes(message)
        return self._receive(DEADLINE_S)

    def _receive(self, seconds: float) -> Any:
        if not self.connection.poll(seconds):
            raise TimeoutError(f"no answer within {seconds:g} s")
        return json.loads(self.connection.recv_bytes())


def serve(descriptor: int, module: str) -> None:
    """A worker's life: import the verifier, then answer until the other end is closed."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    connection = Connection(descriptor)
    try:
        verifier = importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = module.rpartition(".")[2]
        connection.send_bytes(json.dumps(f"{name}: needs {error.name}; pip install 'posttrain[train]'").encode())
        return
    connection.send_bytes(b"null")
    while True:
        try:
            function, *arguments = json.loads(connection.recv_bytes())
        except EOFError:
            return
        signal.alarm(int(2 * DEADLINE_S))  # ends the process when nobody is left to kill it
        reply = json.dumps(_answer(getattr(verifier, function), arguments))
        signal.alarm(0)
        connection.send_bytes(reply.encode())


def _answer(function: Any, arguments: list[Any]) -> dict[str, Any]:
    try:
        result = function(*arguments)
    except VerifierError as error:
        return {"refused": str(error)}
    except Exception as error:
        return {"raised": f"{type(error).__name__}: {error}"}
    return {"result": vars(result) if isinstance(result, Verdict) else result}
