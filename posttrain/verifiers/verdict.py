"""What every verifier returns."""

from __future__ import annotations

from dataclasses import dataclass

from posttrain.errors import VerifierError


@dataclass(frozen=True)
class Verdict:
    """How right one completion is, for example `Verdict(1.0, "3*5+7")`."""

    score: float | None
    """In [0, 1]; None means that nobody can say (not the same as wrong, which is 0)."""

    answer: str | None
    """The canonical answer found in the completion; equal answers count as one. None if none was found."""

    def __post_init__(self) -> None:
        if self.score is not None and not 0 <= self.score <= 1:  # also refuses NaN
            raise VerifierError(f"a verifier's score must lie in [0, 1] or be None, not {self.score!r}")


NOT_FOUND = Verdict(0.0, None)
"""The completion holds no answer."""

UNSCORABLE = Verdict(None, None)
