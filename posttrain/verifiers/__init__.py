"""What decides whether an answer is right.

    >>> verify("3*5+7", "countdown", {"numbers": [3, 5, 7], "target": 22})
    Verdict(score=1.0, answer='3*5+7')

A problem names its verifier and brings the reference it needs. Built in are the modules of `BUILTIN`. Your own:

    @register("palindrome")
    def palindrome(completion: str, reference: Any, prompt: str) -> Verdict:
        return Verdict(float(completion == completion[::-1]), completion)

or a package with the entry point `palindrome = "mine:palindrome"` in the group `posttrain.verifiers`; a function, or
a module with `verify` and, if it likes, `validate` and those of `Verifier`'s others that it has.

Many completions are judged with `verify_all`: verifiers that wait for something judge side by side.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

from posttrain import __version__
from posttrain.errors import VerifierError, nearest
from posttrain.verifiers.verdict import Verdict
from posttrain.verifiers.worker import NotStarted, Remote

__all__ = ["BUILTIN", "Ask", "Bench", "Verdict", "crashes", "names", "register", "validate", "verify", "verify_all"]

log = logging.getLogger(__name__)

Verify = Callable[[str, Any, str], Verdict]
Validate = Callable[[Any], str | None]


class Verifier(Protocol):
    """What a verifier module offers; it may also have

    at_once() -> int: how many completions it can judge at the same time, in threads; without it, one;
    identity() -> str: what decides, beyond its name, such as a model;
    served: a Counter of what really decided, which it keeps.
    """

    def verify(self, completion: str, reference: Any, prompt: str = "") -> Verdict: ...

    def validate(self, reference: Any) -> str | None: ...


class Ask(NamedTuple):
    """A completion to judge."""

    completion: str
    verifier: str
    reference: Any
    prompt: str = ""


class Builtin(NamedTuple):
    module: str
    isolated: bool
    """Runs in a worker process, because a completion can make it run for ever."""


BUILTIN = {
    "choice": Builtin("posttrain.verifiers.choice", isolated=False),
    "code": Builtin("posttrain.verifiers.code", isolated=False),  # the sandbox isolates the program, not the verifier
    "countdown": Builtin("posttrain.verifiers.countdown", isolated=False),
    "exact": Builtin("posttrain.verifiers.exact", isolated=False),
    "instructions": Builtin("posttrain.verifiers.instructions", isolated=False),
    "judge": Builtin("posttrain.verifiers.judge", isolated=False),
    "math": Builtin("posttrain.verifiers.math", isolated=True),
    "numeric": Builtin("posttrain.verifiers.numeric", isolated=False),
    "reasoning_gym": Builtin("posttrain.verifiers.reasoning_gym", isolated=True),
    "regex": Builtin("posttrain.verifiers.regex", isolated=True),
}
GROUP = "posttrain.verifiers"

crashes: Counter[str] = Counter()
"""How often each verifier failed in this process where it should have judged; every one is an unscorable verdict."""

_counting = threading.Lock()
_registered: dict[str, Verifier] = {}


def verify(completion: str, verifier: str, reference: Any, prompt: str = "") -> Verdict:
    """Judge one completion. A verifier that fails, or takes too long, makes it unscorable and is counted in `crashes`.

    Raises:
        VerifierError: the verifier is unknown or not installed, or the reference cannot be used with it.
    """
    judge = _find(verifier)
    try:
        verdict = judge.verify(completion, reference, prompt)
    except VerifierError:
        raise
    except Exception as error:
        with _counting:
            crashes[verifier] += 1
        log.debug("verifier %s failed on a completion of %d characters: %r", verifier, len(str(completion)), error)
        return Verdict(None, None)
    if not isinstance(verdict, Verdict):
        raise VerifierError(f"verifier {verifier!r} returned {type(verdict).__name__}; it must return a Verdict")
    return verdict


def verify_all(asks: Sequence[Ask]) -> Iterator[Verdict]:
    """A verdict for each completion, in order, as soon as it and all before it are there.

    Those whose verifier waits (for a worker process, a sandbox, a server) are judged side by side, the others here.

    Raises:
        VerifierError: as `verify`, for the first completion that it concerns; the rest is not judged.
    """
    widths = {name: _width(name) for name in {ask.verifier for ask in asks}}
    widest = max(widths.values(), default=1)
    pool = ThreadPoolExecutor(widest) if widest > 1 else None
    try:
        elsewhere: dict[int, Future[Verdict]] = {
            place: pool.submit(verify, *ask) for place, ask in enumerate(asks) if pool and widths[ask.verifier] > 1
        }
        for place, ask in enumerate(asks):
            waited = elsewhere.pop(place, None)
            yield waited.result() if waited else verify(*ask)
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _width(name: str) -> int:
    at_once = getattr(_find(name), "at_once", None)
    return at_once() if at_once else 1


class Bench:
    """The verifiers of a stage: who will decide, known before anything is made, and who did.

    `served` counts, of each verifier with an identity, what decided for this stage until `look` was last called.
    """

    def __init__(self, verifiers: Iterable[str] = ()) -> None:
        self._identities: dict[str, str] = {}
        """Of each verifier what decides, beyond its name; empty for most."""
        self._seen: dict[str, Counter[str]] = {}
        self.served: dict[str, Counter[str]] = {}
        for name in verifiers:
            self.add(name)

    def add(self, name: str) -> None:
        """Another one.

        Raises:
            VerifierError: it is unknown, or not configured.
        """
        if name not in self._identities:
            identity = getattr(_find(name), "identity", None)
            self._identities[name] = identity() if identity else ""
            if self._identities[name]:
                self._seen[name], self.served[name] = _served(name), Counter()

    def look(self) -> None:
        """Count what has been decided since the last look."""
        for name, tally in self.served.items():
            now = _served(name)
            tally.update(now - self._seen[name])
            self._seen[name] = now

    @property
    def names(self) -> str:
        """Which verifiers decide, in which version; what two evaluations must have in common to be compared."""
        told = {name: f" ({identity})" if identity else "" for name, identity in sorted(self._identities.items())}
        return ", ".join(f"{name}@{__version__}{identity}" for name, identity in told.items())

    def facts(self, in_all: Callable[[Counter[str]], Counter[str]] = Counter) -> dict[str, str]:
        """For the record: the verifiers and, of each with an identity, what served since it was added.

        Args:
            in_all: adds up what several processes counted.
        """
        self.look()
        told = {"verifiers": self.names}
        for name, tally in self.served.items():
            times = ", ".join(f"{one} ({n})" for one, n in sorted(in_all(tally).items()))
            told[name] = f"{self._identities[name]}; served by {times or 'nobody'}"
        return told


def _served(name: str) -> Counter[str]:
    return Counter(getattr(_find(name), "served", ()))


def validate(verifier: str, reference: Any) -> str | None:
    """One line that says why a problem's reference cannot be used, found without any model; None if it can.

    Raises:
        VerifierError: the verifier is unknown or not installed.
    """
    judge = _find(verifier)
    try:
        return judge.validate(reference)
    except NotStarted:
        raise
    except VerifierError as error:
        return str(error)
    except Exception as error:
        return " ".join(f"{verifier}: the reference cannot be used: {type(error).__name__}: {error}".split())


def names() -> list[str]:
    """Every verifier that can be named, built in or not; imports none of them."""
    return sorted({*BUILTIN, *_registered, *entry_points(group=GROUP).names})


def register(name: str, validate: Validate | None = None) -> Callable[[Verify], Verify]:
    """Make a function a verifier under a new name, for this process."""
    if name in BUILTIN or name in _registered:
        raise VerifierError(f"there is a verifier {name!r} already; choose another name")

    def add(verify: Verify) -> Verify:
        _registered[name] = SimpleNamespace(verify=verify, validate=validate or _accept)
        return verify

    return add


def _accept(reference: Any) -> str | None:
    return None


def _find(name: str) -> Verifier:
    return _registered.get(name) or _load(name)


@cache
def _load(name: str) -> Verifier:
    if name in BUILTIN:
        module, isolated = BUILTIN[name]
        return Remote(module) if isolated else importlib.import_module(module)
    found = entry_points(group=GROUP, name=name)
    if not found:
        raise VerifierError(f"unknown verifier {name!r}{nearest(name, names())}")
    if len(found) > 1:
        offers = ", ".join(entry.value for entry in found)
        raise VerifierError(f"several installed packages offer a verifier {name!r}: {offers}")
    loaded = next(iter(found)).load()
    offered = {name: getattr(loaded, name) for name in ("at_once", "identity", "served") if hasattr(loaded, name)}
    return SimpleNamespace(
        verify=getattr(loaded, "verify", loaded), validate=getattr(loaded, "validate", _accept), **offered
    )
