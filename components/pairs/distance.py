"""How far the policy that sampled the pairs is from the one that will learn from them: whether the pairs are stale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from posttrain.components.pairs.pairing import Pair, key

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.rows import Row
from posttrain.diagnosis.divergence import sequence_kl, sequence_mismatch
from posttrain.diagnosis.intervals import Interval, bootstrap, share
from posttrain.progress import Progress
from posttrain.report.page import Block, Section, Table


@dataclass(frozen=True)
class Distance:
    """Over the paired answers whose sampler's log-probabilities are known: of what will be learned from, that is."""

    kl: Interval  # KL(sampler ‖ learner), nats a token, problems resampled
    effective_share: float  # effective sample size of the answers' importance weights, learner over sampler
    own: Interval  # share of all paired answers that the learner itself sampled
    answers: int
    unknown: int  # answers without the sampler's log-probabilities
    retokenised: int  # answers that the learner reads as another number of tokens than were sampled


def distance(pairs: Sequence[Pair], learner: Artifact, seed: int, progress: Progress) -> Distance:
    """Forward passes of the learner over every paired answer."""
    from posttrain.generation.scoring import Text, completion_logprobs
    from posttrain.generation.transformers import load_policy

    answers = list({id(row): row for pair in pairs for row in pair}.values())
    known = [row for row in answers if row.get("logprobs")]
    texts = [Text(row["prompt"], row["completion"], row.get("finish") != "length") for row in known]
    scored = completion_logprobs(
        *load_policy(learner.path), texts, on_progress=lambda done, total: progress.update(done, total, "answer")
    )
    alike = [(row, mine) for row, mine in zip(known, scored, strict=True) if len(mine) == len(row["logprobs"])]
    own = sum(row.get("sampler") == learner.digest for row in answers)
    theirs, mine = [np.asarray(row["logprobs"]) for row, _ in alike], [values for _, values in alike]
    return Distance(
        kl=_kl([row for row, _ in alike], theirs, mine, seed),
        effective_share=sequence_mismatch(mine, theirs).effective_share if alike else float("nan"),
        own=share(own, len(answers)),
        answers=len(alike),
        unknown=len(answers) - len(known),
        retokenised=len(known) - len(alike),
    )


def _kl(rows: list[Row], theirs: list[np.ndarray], mine: list[np.ndarray], seed: int) -> Interval:
    per_token = sequence_kl(theirs, mine) / np.array([len(values) for values in theirs])
    problems: dict[str, list[float]] = defaultdict(list)
    for row, value in zip(rows, per_token, strict=True):
        problems[key(row, "problem_id", "prompt")].append(float(value))
    return bootstrap([sum(values) / len(values) for values in problems.values()], seed, bounds=None)


def distance_metrics(found: Distance) -> dict[str, float]:
    """What is known, as numbers."""
    numbers = {
        "distance/kl": found.kl.estimate,
        "distance/kl_low": found.kl.low,
        "distance/kl_high": found.kl.high,
        "distance/effective_share": found.effective_share,
        "distance/own_share": found.own.estimate,
    }
    return {name: value for name, value in numbers.items() if np.isfinite(value)}


def distance_blocks(found: Distance) -> list[Block]:
    """The section of the stage's page."""
    rows = [
        ("KL(sampler ‖ learner), nats a token", str(found.kl)),
        ("effective sample size, as a share", f"{found.effective_share:.3f}"),
        ("sampled by the learner itself", str(found.own)),
    ]
    note = (
        f"{found.answers} paired answers; {found.unknown} without log-probabilities, {found.retokenised} retokenised."
    )
    return [Section("Distance from the learner", [Table(["what", "value"], rows, note)])]
