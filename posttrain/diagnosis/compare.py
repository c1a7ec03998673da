"""What one evaluation says, and what changed between two, overall and by slice; every number with its interval.

Problems without a single scored sample are left out and counted. Samples that could not be scored are in no n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.artifacts.evaluation import Evaluation, require_k
from posttrain.diagnosis.intervals import Interval, bootstrap, bootstrap_columns, paired_difference
from posttrain.diagnosis.passk import Floats, informative_rate, ladder, largest_k, pass_at_k, pass_hat_k, usual_samples
from posttrain.diagnosis.support import Paired, Rows, SupportSets, as_columns, distinct_right, pair, support_sets


@dataclass(frozen=True)
class Summary:
    """One evaluation (or slice of one) in numbers. Rates are means over problems."""

    problems: int
    unscorable_problems: int
    unscorable_samples: int
    samples: int
    """n: scored samples that at least nine in ten problems have; the curve's k do not pass it."""
    too_few: dict[int, int]
    """For each k, how many problems have fewer than k scored samples and are left out there."""
    pass_at: dict[int, Interval]
    pass_hat: dict[int, Interval]
    informative: dict[int, Interval]
    """Share of groups of that size that would carry gradient in GRPO or RLOO."""
    headroom: Interval
    """pass@K - pass@1, K = half the samples: what reshaping could gain."""
    distinct_right: Interval
    tokens: Interval
    tokens_right: Interval
    tokens_wrong: Interval
    """Mean length of all, of right and of wrong completions."""
    truncated: Interval
    slices: dict[str, Summary]

    @property
    def k(self) -> int:
        """K that tables and decisions speak of: half the samples, where the estimate of pass@K is still good."""
        return largest_k(self.samples)


@dataclass(frozen=True)
class Change:
    """A rate before and after, and the paired difference."""

    before: Interval
    after: Interval
    delta: Interval

    def __str__(self) -> str:
        return f"{self.before} to {self.after}, difference {self.delta}"


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of the same problems (or one slice of them)."""

    problems: int
    k: int
    """K of `pass_k`: half the samples unless the caller chose another."""
    too_few: int
    """Problems with fewer than K scored samples on a side, left out of `pass_k`."""
    pass_1: Change
    pass_k: Change
    pass_1_kept: Interval
    """Difference in pass@1 among the problems within support both before and after."""
    support: SupportSets
    slices: dict[str, Comparison]


def summarise(measured: Rows, seed: int = 0) -> Summary:
    """Everything that one evaluation says."""
    evaluation = as_columns(measured)
    ks = ladder(usual_samples(evaluation.scored_M))
    slices = {name: _summary(evaluation.in_slice(name), ks, seed, {}) for name in evaluation.slices}
    return _summary(evaluation, ks, seed, slices)


def compare(before: Rows, after: Rows, k: int | None = None, seed: int = 0) -> Comparison:
    """What changed from one policy to another on the same problems.

    Args:
        k: K of pass@K; by default half the samples, since at k = n the estimate is a mere 0 or 1 for each problem.

    Raises:
        ContractError: the evaluations are not of the same problems.
        DataError: more than one problem in ten has fewer than k scored samples.
    """
    pairs = pair(before, after)
    if k is None:
        k = largest_k(usual_samples(_scored_by_both(pairs)))
    else:
        for side in (pairs.before, pairs.after):
            require_k(side, k)
    names = sorted({*pairs.before.slices, *pairs.unscorable.slices})
    slices = {name: _comparison(pairs.in_slice(name), k, seed, {}) for name in names}
    return _comparison(pairs, k, seed, slices)


def _summary(rows: Evaluation, ks: tuple[int, ...], seed: int, slices: dict[str, Summary]) -> Summary:
    usable = rows.take(rows.scored_M > 0)
    scored_M, correct_M = usable.scored_M, usable.correct_M
    half = largest_k(ks[-1])

    def curve(estimator: Callable[[Floats, Floats, int], Floats], ks: Sequence[int]) -> dict[int, Interval]:
        columns = [estimator(scored_M, correct_M, k) for k in ks]
        return dict(zip(ks, bootstrap_columns(np.column_stack(columns), seed), strict=True)) if ks else {}

    headroom_M = pass_at_k(scored_M, correct_M, half) - pass_at_k(scored_M, correct_M, 1)
    lengths_M3 = np.column_stack([usable.tokens_M, usable.tokens_right_M, usable.tokens_wrong_M])
    tokens, right, wrong = bootstrap_columns(lengths_M3, seed, bounds=None)
    return Summary(
        problems=len(usable),
        unscorable_problems=len(rows) - len(usable),
        unscorable_samples=int((rows.sampled_M - rows.scored_M).sum()),
        samples=usual_samples(scored_M),
        too_few={k: int((scored_M < k).sum()) for k in ks},
        pass_at=curve(pass_at_k, ks),
        pass_hat=curve(pass_hat_k, ks),
        informative=curve(informative_rate, [k for k in ks if k > 1]),
        headroom=bootstrap(headroom_M, seed),
        distinct_right=bootstrap(distinct_right(usable, scored_M), seed, bounds=None),
        tokens=tokens,
        tokens_right=right,
        tokens_wrong=wrong,
        truncated=bootstrap(usable.truncated_M / usable.sampled_M, seed),
        slices=slices,
    )


def _comparison(pairs: Paired, k: int, seed: int, slices: dict[str, Comparison]) -> Comparison:
    before_M2, after_M2 = (
        np.column_stack([pass_at_k(side.scored_M, side.correct_M, each) for each in (1, k)])
        for side in (pairs.before, pairs.after)
    )
    # A problem that one side cannot estimate is left out of both, or before, after and difference would disagree.
    lacking_M2 = np.isnan(before_M2) | np.isnan(after_M2)
    before_M2[lacking_M2] = after_M2[lacking_M2] = np.nan
    sides = (bootstrap_columns(before_M2, seed), bootstrap_columns(after_M2, seed))
    pass_1, pass_k = (
        Change(*change) for change in zip(*sides, paired_difference(before_M2, after_M2, seed), strict=True)
    )
    kept_M = (pairs.before.correct_M > 0) & (pairs.after.correct_M > 0)
    return Comparison(
        problems=len(pairs.before),
        k=k,
        too_few=int((_scored_by_both(pairs) < k).sum()),
        pass_1=pass_1,
        pass_k=pass_k,
        pass_1_kept=paired_difference(before_M2[kept_M, :1], after_M2[kept_M, :1], seed)[0],
        support=support_sets(pairs, seed),
        slices=slices,
    )


def _scored_by_both(pairs: Paired) -> Floats:
    return np.minimum(pairs.before.scored_M, pairs.after.scored_M)
