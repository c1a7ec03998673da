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
from posttrain.errors import ConfigError, DataError

# At 1% a token, 64 samples that reach this place miss it more often than not: .99^64 = .53.
IMPROBABLE = 0.01


class Surprise(NamedTuple):
    """Of a set of demonstrations under a policy. On demonstrations held out of SFT, `loss` is its held-out loss."""

    loss: Interval  # mean of -log π(y | x) / T over demonstrations, nats a token
    improbable_tokens: Interval  # mean share of a demonstration's tokens with π < ε
    surprising: Interval  # share of demonstrations with at least one such token


def surprise(logprobs: Sequence[Floats], improbable: float = IMPROBABLE, seed: int = 0) -> Surprise:
    """How surprising demonstrations are, each demonstration counting once however long it is.

    Args:
        logprobs: of each demonstration, log π of each of its tokens, nats.
        improbable: ε.

    Raises:
        ConfigError: ε is no probability between 0 and 1.
        DataError: a demonstration has no tokens.
    """
    if not 0 < improbable < 1:
        raise ConfigError(f"improbable = {improbable}: give a probability between 0 and 1")
    empty = next((index for index, row in enumerate(logprobs) if not len(row)), None)
    if empty is not None:
        raise DataError(f"demonstration {empty} has no tokens; leave it out")
    bound = np.log(improbable)
    loss = [float(-row.mean()) for row in logprobs]
    rare = [float((row < bound).mean()) for row in logprobs]
    return Surprise(
        bootstrap(loss, seed, bounds=None), bootstrap(rare, seed), bootstrap([float(share > 0) for share in rare], seed)
    )
