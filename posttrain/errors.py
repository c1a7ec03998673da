"""Errors that answer in one line: where, what value, what remedy.

One type per boundary, so that a caller (and a process's exit code) can tell a mistake of the user, which no retry
mends, from a fault of the surroundings, which a retry may.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

USER_ERROR = 2  # the shell's "misused": wrong data, wrong setting; a retry would fail the same way
RETRYABLE = 75  # sysexits.h EX_TEMPFAIL: storage or network failed; try again
PREEMPTED = 85  # told to end, and everything is kept: start it again and it goes on
FENCED = 76  # another run writes these checkpoints now: this one stops, and must not be tried again


class PosttrainError(Exception):
    """Base of everything this library raises on purpose. `str(error)` is one line fit for a terminal."""

    exit_code = USER_ERROR


class ConfigError(PosttrainError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(PosttrainError, ValueError):
    """A data file or one of its rows cannot be used."""


class PolicyError(PosttrainError, ValueError):
    """A directory is not a policy that may be loaded (not a model, pickle weights, remote code …)."""


class ContractError(PosttrainError, ValueError):
    """Parents that do not fit each other or the stage (tokenizers, templates, overlap, room on disk …)."""


class ProvenanceError(ContractError):
    """The provenance computed from the trajectories is not the one declared."""


class RecipeError(ConfigError):
    """A recipe's graph is wrong: unknown parent, cycle, unknown stage."""


class VerifierError(PosttrainError, ValueError):
    """A verifier is unknown or cannot be used with a problem's reference."""


class JudgeError(VerifierError):
    """A judge that is asked over the network does not answer; a retry may help, and what it has judged is kept."""

    exit_code = RETRYABLE


class StorageError(PosttrainError, OSError):
    """Reading or writing an object failed; a retry may help."""

    exit_code = RETRYABLE


class RefusedError(StorageError):
    """A store will not do what is asked: no such bucket, a wrong key, no right to it, a path that is none."""

    exit_code = USER_ERROR


class DamagedError(DataError):
    """What is stored is not what was put there: an object is missing, cut short, or holds other bytes."""


class FencedError(PosttrainError, RuntimeError):
    """A newer run has become the writer of the checkpoints that this one writes."""

    exit_code = FENCED


class Preempted(PosttrainError):
    """The process was told to end, as a preempted pod is, and did so with all that it had done kept."""

    exit_code = PREEMPTED


class GroupError(PosttrainError, RuntimeError):
    """A process of a group was killed, without a word of its own; a retry may help."""

    exit_code = RETRYABLE


class JobError(PosttrainError, RuntimeError):
    """A job that did a stage's work elsewhere has failed; `exit_code` is that of what failed there."""

    def __init__(self, message: str, exit_code: int = RETRYABLE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ServerError(PosttrainError, OSError):
    """A server that a stage depends on did not answer; a retry may help."""

    exit_code = RETRYABLE


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt name: `; did you mean 'x'?` or the list of what exists."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
