"""Empirical support: which problems a policy solves at least once, before and after a stage, and what of it is luck.

With S = {problems with at least one correct sample}: kept = S0 and S1, gained = S1 only, lost = S0 only, outside =
neither (arXiv 2507.14843; survey 2604.07941 eq. 6-8). A problem solved now and then crosses these borders by luck, so
gains and losses are corrected twice:

* `solid` counts a lost problem only if missing it n_after times at its old rate has probability under 5%:
  (1 - c_before/n_before)^n_after < .05; a gained one by the mirror image.
* `beyond_luck` then subtracts what luck alone puts there. If the stage changed nothing, the s correct samples of both
  evaluations are a random s of all n_before + n_after, so they all fall after the stage with probability
  C(n_after, s) / C(n_before + n_after, s). The share minus these probabilities averages to zero under "no change";
  without it, many problems near the rule's border (2 correct of 64) read as 4% gained and 4% lost where nothing moved.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from posttrain.artifacts.evaluation import Evaluation, Measured
from posttrain.diagnosis.intervals import DIFFERENCE, Interval, bootstrap, share, zero_success_bound
from posttrain.diagnosis.passk import Floats, log_choose
from posttrain.errors import ContractError

LUCK = 0.05


@dataclass(frozen=True)
class Paired:
    """The problems scored in both evaluations, in the order of their ids; row i of both is the same problem."""

    before: Evaluation
    after: Evaluation
    unscorable: Evaluation
    """Problems left out because one of the evaluations could score none of their samples."""

    def in_slice(self, name: str) -> Paired:
        """The pairs of one slice."""
        return Paired(self.before.in_slice(name), self.after.in_slice(name), self.unscorable.in_slice(name))


@dataclass(frozen=True)
class Part:
    """One of the four sets: its problems and their share of all."""

    ids: tuple[str, ...]
    share: Interval


@dataclass(frozen=True)
class Crossing(Part):
    """Problems that entered or left the support."""

    solid: tuple[str, ...]
    """Those that a rate as small as luck needs would not explain."""
    beyond_luck: Interval
    """Share of all problems that crossed solidly, less what luck alone would put there; never below zero."""


@dataclass(frozen=True)
class SupportSets:
    """Where the support of two policies on the same problems agrees and differs."""

    problems: int
    unscorable: int
    kept: Part
    gained: Crossing
    lost: Crossing
    outside: Part
    outside_bound: float | None
    """What `outside` means: success is rarer than this, at 95%, under either policy, on each such problem."""
    coverage_before: Interval
    """Distinct right answers a problem, in as many samples as the poorer sampled of the two evaluations has."""
    coverage_after: Interval
    coverage_change: Interval


Rows = Evaluation | Iterable[Measured]


def as_columns(evaluation: Rows) -> Evaluation:
    """An evaluation, or its rows, by column."""
    return evaluation if isinstance(evaluation, Evaluation) else Evaluation.of(evaluation)


def pair(before: Rows, after: Rows) -> Paired:
    """Pair two evaluations by problem.

    Raises:
        ContractError: they are not of the same problems, list one twice, or file one under different slices.
    """
    before, after = as_columns(before), as_columns(after)
    _refuse_repeated(before, "before")
    _refuse_repeated(after, "after")
    old, new = before.problem_id_M, after.problem_id_M
    if len(old) != len(new) or (old != new).any():
        gone, come = np.setdiff1d(old, new), np.setdiff1d(new, old)
        first = min([*gone[:1].tolist(), *come[:1].tolist()])
        raise ContractError(
            f"the evaluations differ in {len(gone) + len(come)} problems ({len(gone)} only before, {len(come)} only "
            f"after), first {first!r}, only {'before' if first in gone else 'after'}; evaluate both policies on the "
            "same problems"
        )
    moved_M = np.flatnonzero(before.slice_M != after.slice_M)
    if moved_M.size:
        i = moved_M[0]
        raise ContractError(
            f"problem {old[i]!r} is in slice {before.slice_M[i]!r} before and {after.slice_M[i]!r} after; "
            "evaluate both policies on one problem file"
        )
    usable_M = (before.scored_M > 0) & (after.scored_M > 0)
    return Paired(before.take(usable_M), after.take(usable_M), before.take(~usable_M))


def support_sets(pairs: Paired, seed: int = 0) -> SupportSets:
    """The four support sets of paired evaluations, corrected for luck, and their distinct right answers."""
    before, after = pairs.before, pairs.after
    in0_M, in1_M = before.correct_M > 0, after.correct_M > 0
    ids_M, outside_M = before.problem_id_M, ~in0_M & ~in1_M
    fewest_M = np.minimum(before.scored_M, after.scored_M)
    fewest = int(fewest_M[outside_M].min()) if outside_M.any() else None
    coverage0_M, coverage1_M = distinct_right(before, fewest_M), distinct_right(after, fewest_M)
    return SupportSets(
        problems=len(before),
        unscorable=len(pairs.unscorable),
        kept=_part(ids_M, in0_M & in1_M),
        gained=_crossing(before, after, seed),
        lost=_crossing(after, before, seed),
        outside=_part(ids_M, outside_M),
        outside_bound=None if fewest is None else zero_success_bound(fewest),
        coverage_before=bootstrap(coverage0_M, seed, bounds=None),
        coverage_after=bootstrap(coverage1_M, seed, bounds=None),
        coverage_change=bootstrap(coverage1_M - coverage0_M, seed, bounds=None),
    )


def distinct_right(evaluation: Evaluation, samples_M: Floats) -> Floats:
    """Distinct right answers of each problem, as expected in a random `samples_M` of those scored. Shape (M,).

    An answer given v times of n is among s random ones with probability 1 - C(n - v, s) / C(n, s).
    """
    votes, n_M = evaluation.votes, evaluation.scored_M
    lengths_M = np.diff(votes.offsets)
    n_V, s_V = np.repeat(n_M, lengths_M), np.repeat(np.minimum(samples_M, n_M), lengths_M)
    missed_V = np.exp(log_choose(n_V - np.minimum(votes.counts, n_V), s_V) - log_choose(n_V, s_V))
    return votes.sum_by_problem(np.where(votes.right, 1 - missed_V, 0.0))


def _part(ids_M: np.ndarray, in_M: np.ndarray) -> Part:
    return Part(tuple(ids_M[in_M]), share(int(in_M.sum()), len(ids_M)))


def _crossing(out: Evaluation, into: Evaluation, seed: int) -> Crossing:
    """Problems outside the support in the evaluation `out` and inside it in `into`; gained and lost differ in order."""
    crossed_M = (out.correct_M == 0) & (into.correct_M > 0)
    solid_M = crossed_M & _solid(into.correct_M, into.scored_M, out.scored_M)
    ids_M, solid = out.problem_id_M, int(solid_M.sum())
    part = _part(ids_M, crossed_M)
    luck_M = _by_luck(out.scored_M, into.scored_M, out.correct_M + into.correct_M)
    excess = bootstrap(solid_M - luck_M, seed, bounds=DIFFERENCE)
    beyond_luck = Interval(
        max(excess.estimate, 0.0),
        max(excess.low, 0.0),
        # Subtracting luck makes nothing certain that the plain share leaves open: none of 128 still allows 2.3%.
        max(excess.high, share(solid, len(ids_M)).high),
    )
    return Crossing(part.ids, part.share, tuple(ids_M[solid_M]), beyond_luck)


def _solid(correct_M: Floats, scored_M: Floats, other_M: Floats) -> np.ndarray:
    """Whether zero successes in `other` samples would be rarer than LUCK at the rate correct / scored."""
    return (1 - correct_M / scored_M) ** other_M < LUCK


def _by_luck(scored_out_M: Floats, scored_in_M: Floats, correct_M: Floats) -> Floats:
    """Probability, if nothing changed, that a problem's correct samples all fall `in` and count as solid."""
    fits_M = (correct_M > 0) & (correct_M <= scored_in_M)
    solid_M = fits_M & _solid(np.minimum(correct_M, scored_in_M), scored_in_M, scored_out_M)
    chosen_M = log_choose(scored_in_M, np.minimum(correct_M, scored_in_M))
    luck_M = np.exp(chosen_M - log_choose(scored_in_M + scored_out_M, correct_M))
    return np.where(solid_M, luck_M, 0.0)


def _refuse_repeated(evaluation: Evaluation, side: str) -> None:
    ids_M, times_M = np.unique(evaluation.problem_id_M.astype(str), return_counts=True)
    if (repeated := ids_M[times_M > 1]).size:
        raise ContractError(
            f"the evaluation {side} lists {len(repeated)} problems more than once, first {str(repeated[0])!r}; "
            "evaluate each problem once"
        )
