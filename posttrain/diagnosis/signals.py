"""The signals that the rules speak of, from evaluations; each with its interval, overall and by slice.

Nothing is sampled here: everything is a function of stored evaluations (and of log-probabilities, where a caller has
them). Suffix M: one value a problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from posttrain.artifacts.evaluation import Evaluation
from posttrain.artifacts.record import Record
from posttrain.diagnosis.compare import Comparison, compare
from posttrain.diagnosis.diagnosis import ALL
from posttrain.diagnosis.intervals import DIFFERENCE, RATE, Bounds, Interval, bootstrap_columns
from posttrain.diagnosis.passk import Floats, informative_rate, largest_k, pass_at_k, pass_hat_k, usual_samples
from posttrain.diagnosis.selection import majority_at_k, majority_right
from posttrain.diagnosis.support import Paired, pair
from posttrain.diagnosis.teachers import teacher_novelty

GROUP = 8  # the group size of the signal `informative`: the default of the stage rl
GROUPS = (4, 8, 16, 32, 64)
RESAMPLED = 4096  # problems for which a majority of k is drawn
# A verifier that calls right every one of so many different answers is judging their form.
FEWEST_DISTINCT = 4

BySlice = dict[str, dict[str, Interval]]


def by_slice(evaluation: Evaluation, signals: Callable[[Evaluation], dict[str, Interval]]) -> BySlice:
    """Signals of all problems, then of each slice (of none if there is only one)."""
    names = evaluation.slices if len(evaluation.slices) > 1 else []
    return {ALL: signals(evaluation), **{name: signals(evaluation.in_slice(name)) for name in names}}


def level_signals(evaluation: Evaluation, seed: int = 0) -> dict[str, Interval]:
    """What one evaluation says about level, reach, diversity, length, and about its verifier."""
    usable = evaluation.take(evaluation.scored_M > 0)
    n_M, c_M = usable.scored_M, usable.correct_M
    k = largest_k(usual_samples(n_M))
    pass_1_M, pass_k_M = pass_at_k(n_M, c_M, 1), pass_at_k(n_M, c_M, k)
    votes = usable.votes
    # The majority of all samples: what self-consistency gives with the budget that was measured.
    majority_M = majority_right(votes.offsets, votes.counts, votes.right)
    majority_k_M = _majority_at_k(usable, k, seed)
    rates = {
        "pass_1": pass_1_M,
        "pass_k": pass_k_M,
        "pass_hat_k": pass_hat_k(n_M, c_M, k),
        "headroom": pass_k_M - pass_1_M,
        "always_fail": (c_M == 0).astype(float),
        "sometimes": ((c_M > 0) & (c_M < n_M)).astype(float),
        "always_pass": (c_M == n_M).astype(float),
        "informative": informative_rate(n_M, c_M, GROUP),
        "majority": majority_M,
        "truncated": usable.truncated_M / usable.sampled_M,
        "swapped_accepted": _ratio(usable.swapped_accepted_M, usable.swapped_M),
        "indiscriminate": _accepted_of_distinct(usable),
    }
    free = {
        "entropy": -usable.logprob_sum_M / usable.tokens_sum_M,
        "tokens": usable.tokens_M,
        "tokens_right": usable.tokens_right_M,
        "tokens_wrong": usable.tokens_wrong_M,
        "distinct_right": _distinct_right(usable),
    }
    scorable = {"scorable": evaluation.scored_M / evaluation.sampled_M}
    gaps = {"selection_gap": pass_k_M - majority_k_M}
    return (
        _means(rates, seed, RATE)
        | _means(gaps, seed, DIFFERENCE)
        | _means(free, seed, None)
        | _means(scorable, seed, RATE)
    )


def informative_by_group(evaluation: Evaluation, seed: int = 0) -> dict[int, Interval]:
    """Share of groups with a gradient for every group size up to n: pass@G - pass^G."""
    n_M, c_M = evaluation.scored_M, evaluation.correct_M
    sizes = [size for size in GROUPS if size <= usual_samples(n_M)]
    columns = {str(size): informative_rate(n_M, c_M, size) for size in sizes}
    return {int(size): interval for size, interval in _means(columns, seed, RATE).items()}


def change_signals(comparison: Comparison) -> BySlice:
    """What the last stage changed: paired differences, support gained and lost beyond luck."""
    return _compared(comparison, _changes)


def anchor_signals(before: Evaluation, after: Evaluation, seed: int = 0) -> dict[str, Interval]:
    """Forgetting: what changed on problems that were not to change."""
    comparison = compare(before, after, seed=seed)
    return {
        "anchor_change": comparison.pass_1.delta,
        "anchor_k_change": comparison.pass_k.delta,
        "anchor_attrition": comparison.support.lost.beyond_luck,
    }


def teacher_signals(evaluation: Evaluation, teacher: Evaluation, seed: int = 0) -> BySlice:
    """How much better the teacher is, and how much of that the policy cannot do at all."""
    pairs = pair(evaluation, teacher)
    names = evaluation.slices if len(evaluation.slices) > 1 else []
    return {ALL: _taught(pairs, seed), **{name: _taught(pairs.in_slice(name), seed) for name in names}}


def _taught(pairs: Paired, seed: int) -> dict[str, Interval]:
    student, taught = pairs.before, pairs.after
    gap_M = pass_at_k(taught.scored_M, taught.correct_M, 1) - pass_at_k(student.scored_M, student.correct_M, 1)
    novel_M = teacher_novelty(student.scored_M, student.correct_M, taught.scored_M, taught.correct_M)
    return _means({"teacher_gap": gap_M}, seed, DIFFERENCE) | _means({"teacher_novelty": novel_M}, seed, RATE)


def training_signals(evaluation: Evaluation, training: Evaluation, seed: int = 0) -> dict[str, Interval]:
    """Whether the verifier that rewards come from can be trusted, and is as strict as the one that is judged by.

    Only for a policy that was not trained on these problems; else the gap is what it has memorised.
    """
    usable = training.take(training.scored_M > 0)
    rates = {
        "training_swapped_accepted": _ratio(usable.swapped_accepted_M, usable.swapped_M),
        "training_indiscriminate": _accepted_of_distinct(usable),
    }
    judged, rewarded = (
        bootstrap_columns(pass_at_k(side.scored_M, side.correct_M, 1)[:, None], seed)[0]
        for side in (evaluation.take(evaluation.scored_M > 0), usable)
    )
    estimate = rewarded.estimate - judged.estimate
    # Two sets of problems: their errors add up, in squares.
    low = estimate - math.hypot(rewarded.estimate - rewarded.low, judged.high - judged.estimate)
    high = estimate + math.hypot(rewarded.high - rewarded.estimate, judged.estimate - judged.low)
    return _means(rates, seed, RATE) | {"leniency": Interval(estimate, low, high)}


def scaffold_signals(evaluation: Evaluation, scaffold: Evaluation, seed: int = 0) -> dict[str, Interval]:
    """What search, hints or a verifier at test time add to the bare policy."""
    return {"scaffold_gap": compare(evaluation, scaffold, seed=seed).pass_1.delta}


def history_signals(policy: Record | None) -> dict[str, Interval]:
    """What the policy's own training says: how far its reward rose.

    An exact number of one run, so a point; a stage that did not log the curve gives none.
    """
    reward = [value for _, value in policy.curves.get("reward", [])] if policy else []
    if not reward:
        return {}
    quarter = max(1, len(reward) // 4)
    return {"reward_gain": _point(float(np.mean(reward[-quarter:]) - np.mean(reward[:quarter])))}


def _point(value: float) -> Interval:
    return Interval(value, value, value)


def _compared(comparison: Comparison, signals: Callable[[Comparison], dict[str, Interval]]) -> BySlice:
    parts = comparison.slices if len(comparison.slices) > 1 else {}
    return {ALL: signals(comparison), **{name: signals(part) for name, part in parts.items()}}


def _changes(comparison: Comparison) -> dict[str, Interval]:
    return {
        "pass_1_change": comparison.pass_1.delta,
        "pass_k_change": comparison.pass_k.delta,
        "gained": comparison.support.gained.beyond_luck,
        "lost": comparison.support.lost.beyond_luck,
        "coverage_change": comparison.support.coverage_change,
    }


def _means(columns: dict[str, Floats], seed: int, bounds: Bounds | None) -> dict[str, Interval]:
    table_MK = np.column_stack(list(columns.values())) if columns else np.zeros((0, 0))
    return dict(zip(columns, bootstrap_columns(table_MK, seed, bounds=bounds), strict=True))


def _ratio(part_M: Floats, whole_M: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole_M > 0, part_M / whole_M, np.nan)


def _right_and_distinct(evaluation: Evaluation) -> tuple[Floats, Floats]:
    """Distinct right answers and distinct answers of each problem. Shapes (M,), (M,)."""
    votes = evaluation.votes
    totals = np.concatenate([[0], np.cumsum(votes.right, dtype=float)])
    return totals[votes.offsets[1:]] - totals[votes.offsets[:-1]], np.diff(votes.offsets).astype(float)


def _majority_at_k(evaluation: Evaluation, k: int, seed: int) -> Floats:
    """Of at most `RESAMPLED` problems by chance, NaN for the rest: it takes drawing, which a million need not."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(evaluation))[:RESAMPLED])
    votes = evaluation.take(chosen).votes
    majority_M = np.full(len(evaluation), np.nan)
    majority_M[chosen] = majority_at_k(votes.offsets, votes.counts, votes.right, k, seed)
    return majority_M


def _distinct_right(evaluation: Evaluation) -> Floats:
    return _right_and_distinct(evaluation)[0]


def _accepted_of_distinct(evaluation: Evaluation) -> Floats:
    """Share of a problem's distinct answers that the verifier accepted; NaN where there are too few to tell."""
    right_M, distinct_M = _right_and_distinct(evaluation)
    return np.where(distinct_M >= FEWEST_DISTINCT, _ratio(right_M, distinct_M), np.nan)
