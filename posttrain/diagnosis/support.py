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

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.artifacts.evaluation import Measured
from posttrain.diagnosis.intervals import DIFFERENCE, Interval, bootstrap, share, zero_success_bound
from posttrain.diagnosis.passk import Floats, pass_at_k
from posttrain.errors import ContractError

LUCK = 0.05


@dataclass(frozen=True)
class Paired:
    """The problems scored in both evaluations, in the order of their ids; row i of both is the same problem."""

    before: tuple[Measured, ...]
    after: tuple[Measured, ...]
    unscorable: tuple[Measured, ...]
    """Problems left out because one of the evaluations could score none of their samples."""

    def in_slice(self, name: str) -> Paired:
        """The pairs of one slice."""
        sides = (self.before, self.after, self.unscorable)
        return Paired(*(tuple(row for row in rows if row.slice == name) for rows in sides))


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


def pair(before: Sequence[Measured], after: Sequence[Measured]) -> Paired:
    """Pair two evaluations by problem.

    Raises:
        ContractError: they are not of the same problems, list one twice, or file one under different slices.
    """
    old, new = _by_id(before, "before"), _by_id(after, "after")
    if differing := sorted(old.keys() ^ new.keys()):
        first = differing[0]
        gone, come = len(old.keys() - new.keys()), len(new.keys() - old.keys())
        raise ContractError(
            f"the evaluations differ in {len(differing)} problems ({gone} only before, {come} only after), first "
            f"{first!r}, only {'before' if first in old else 'after'}; evaluate both policies on the same problems"
        )
    for key in sorted(old):
        if old[key].slice != new[key].slice:
            raise ContractError(
                f"problem {key!r} is in slice {old[key].slice!r} before and {new[key].slice!r} after; "
                "evaluate both policies on one problem file"
            )
    usable = [key for key in sorted(old) if old[key].scored and new[key].scored]
    unscorable = tuple(old[key] for key in sorted(old.keys() - set(usable)))
    return Paired(tuple(old[key] for key in usable), tuple(new[key] for key in usable), unscorable)


def counts(rows: Sequence[Measured]) -> tuple[Floats, Floats]:
    """Scored and correct samples of each problem. Shapes (M,), (M,)."""
    return np.array([row.scored for row in rows], dtype=float), np.array([row.correct for row in rows], dtype=float)


def support_sets(pairs: Paired, seed: int = 0) -> SupportSets:
    """The four support sets of paired evaluations, corrected for luck, and their distinct right answers."""
    (scored0_M, correct0_M), (scored1_M, correct1_M) = counts(pairs.before), counts(pairs.after)
    in0_M, in1_M = correct0_M > 0, correct1_M > 0
    ids_M = np.array([row.problem_id for row in pairs.before], dtype=object)
    outside_M = ~in0_M & ~in1_M
    fewest = int(np.minimum(scored0_M, scored1_M)[outside_M].min()) if outside_M.any() else None
    coverage_M2 = np.array([_coverage(*rows) for rows in zip(pairs.before, pairs.after, strict=True)]).reshape(-1, 2)
    return SupportSets(
        problems=len(ids_M),
        unscorable=len(pairs.unscorable),
        kept=_part(ids_M, in0_M & in1_M),
        gained=_crossing(ids_M, scored0_M, correct0_M, scored1_M, correct1_M, seed),
        lost=_crossing(ids_M, scored1_M, correct1_M, scored0_M, correct0_M, seed),
        outside=_part(ids_M, outside_M),
        outside_bound=None if fewest is None else zero_success_bound(fewest),
        coverage_before=bootstrap(coverage_M2[:, 0], seed, bounds=None),
        coverage_after=bootstrap(coverage_M2[:, 1], seed, bounds=None),
        coverage_change=bootstrap(coverage_M2[:, 1] - coverage_M2[:, 0], seed, bounds=None),
    )


def _coverage(before: Measured, after: Measured) -> tuple[float, float]:
    samples = min(before.scored, after.scored)
    return distinct_right(before, samples), distinct_right(after, samples)


def distinct_right(row: Measured, samples: int) -> float:
    """Distinct right answers of a problem, as expected in a random `samples` of those scored."""
    if samples >= row.scored:
        return float(len(row.right_answers))
    # A right answer without a count of its own was seen at least once.
    given = [min(row.answers.get(answer, 1), row.scored) for answer in row.right_answers]
    return float(pass_at_k([row.scored] * len(given), given, samples).sum())


def _part(ids_M: np.ndarray, in_M: np.ndarray) -> Part:
    return Part(tuple(ids_M[in_M]), share(int(in_M.sum()), len(ids_M)))


def _crossing(
    ids_M: np.ndarray,
    scored_out_M: Floats,
    correct_out_M: Floats,
    scored_in_M: Floats,
    correct_in_M: Floats,
    seed: int,
) -> Crossing:
    """Problems inside the support in the evaluation `in`, outside it in `out`; gained and lost differ only in order."""
    crossed_M = (correct_out_M == 0) & (correct_in_M > 0)
    solid_M = crossed_M & _solid(correct_in_M, scored_in_M, scored_out_M)
    part, solid = _part(ids_M, crossed_M), int(solid_M.sum())
    excess = bootstrap(
        solid_M - _by_luck(scored_out_M, scored_in_M, correct_out_M + correct_in_M), seed, bounds=DIFFERENCE
    )
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
    luck_M = np.zeros(len(correct_M))
    for i in np.flatnonzero(solid_M):
        n_in, n_all, s = int(scored_in_M[i]), int(scored_in_M[i] + scored_out_M[i]), int(correct_M[i])
        luck_M[i] = math.comb(n_in, s) / math.comb(n_all, s)
    return luck_M


def _by_id(rows: Sequence[Measured], side: str) -> dict[str, Measured]:
    times = Counter(row.problem_id for row in rows)
    if repeated := sorted(key for key, count in times.items() if count > 1):
        raise ContractError(
            f"the evaluation {side} lists {len(repeated)} problems more than once, first {repeated[0]!r}; "
            "evaluate each problem once"
        )
    return {row.problem_id: row for row in rows}
