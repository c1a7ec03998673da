"""How new demonstrations are to a policy: the operational form of the survey's section 4.1 (2604.07941).

SFT on what the policy finds likely already reshapes at best; what brings new answers within reach is demonstrations
with decisions that the policy would hardly ever take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from posttrain.diagnosis.intervals import Interval, bootstrap
from posttrain.diagnosis.passk import Floats


class Surprise(NamedTuple):
    """Of a set of demonstrations under a policy."""

    loss: Interval  # mean of -log π(y | x) / T over demonstrations, nats a token
    improbable_tokens: Interval  # mean share of a demonstration's tokens with π < ε
    surprising: Interval  # share of demonstrations with at least one such token


def surprise(logprobs: Sequence[Floats], improbable: float = 0.01, seed: int = 0) -> Surprise:
    """How surprising demonstrations are.

    Args:
        logprobs: of each demonstration, log π of each of its tokens, nats.
        improbable: ε. A token rarer than 1% is one that 64 samples seldom contain.
    """
    bound = np.log(improbable)
    loss = [float(-row.mean()) for row in logprobs]
    rare = [float((row < bound).mean()) for row in logprobs]
    return Surprise(
        bootstrap(loss, seed, bounds=None), bootstrap(rare, seed), bootstrap([float(share > 0) for share in rare], seed)
    )
