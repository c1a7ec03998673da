"""Roles: the outcomes of the toy world, where what each stage really did is known."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.diagnosis.compare import compare
from posttrain.diagnosis.roles import TOLERANCE, measured_role
from posttrain.taxonomy import Role

M = 128


def rates(mean: float, seed: int, spread: float = 8.0) -> list[int]:
    """Correct counts of 64 samples on M problems whose rates vary about a mean."""
    rng = np.random.default_rng(seed)
    return rng.binomial(64, rng.beta(mean * spread, (1 - mean) * spread, M)).tolist()


@pytest.fixture
def base(evaluation):
    """Easy problems at .22, all within reach; hard ones never solved."""
    return evaluation([max(c, 1) for c in rates(0.22, 0)], slice="easy") + evaluation([0] * M, slice="hard", first=M)


def test_nothing_changed_is_no_role(base) -> None:
    role = measured_role(compare(base, base))
    assert (role.roles, role.undecided) == ((), ())
    assert role.as_intended is None
    assert role.verdict.startswith("no role: pass@1 ")
    assert role.attrition.estimate == 0


def test_resampled_base_is_no_role(evaluation) -> None:
    """The same policy, sampled twice: over 20 seeds, no more roles than 5% intervals allow."""
    rng = np.random.default_rng(3)
    found = {Role.EXPANSION: 0, Role.RESHAPING: 0}
    for seed in range(20):
        p = rng.beta(0.3, 3, M)
        before, after = (evaluation(rng.binomial(64, p).tolist()) for _ in range(2))
        for role in measured_role(compare(before, after, seed=seed)).roles:
            found[role] += 1
    assert found[Role.EXPANSION] <= 2
    assert found[Role.RESHAPING] <= 2


def test_grpo_on_what_is_out_of_reach_plays_no_role(base) -> None:
    """Measured: 100 GRPO steps on problems with pass@64 = 0 moved nothing."""
    hard = measured_role(compare(base, base).slices["hard"], Role.RESHAPING)
    assert (hard.roles, hard.undecided) == ((), ())
    assert hard.as_intended is False
    assert hard.verdict.startswith("no role, though reshaping was intended")


def test_expansion_from_zero_without_attrition(base, evaluation) -> None:
    """SFT with replay: hard .115 / .875 from nothing, easy as before."""
    after = base[:M] + evaluation(rates(0.115, 1, spread=12), slice="hard", first=M)
    comparison = compare(base, after)
    role = measured_role(comparison, Role.EXPANSION)
    assert role.roles == (Role.EXPANSION,)
    assert role.as_intended is True
    assert role.attrition.estimate == 0
    assert role.attrition.high < TOLERANCE
    assert role.verdict.startswith("expansion, as intended: ")
    assert measured_role(comparison.slices["hard"]).roles == (Role.EXPANSION,)
    assert measured_role(comparison.slices["easy"]).roles == ()


def test_expansion_and_attrition_together(base, evaluation) -> None:
    """SFT on hard demonstrations alone: hard .10 / .95, and .84 of the easy problems lost."""
    easy = [0] * 107 + [3] * 21
    after = evaluation(easy, slice="easy") + evaluation(rates(0.1, 1, spread=12), slice="hard", first=M)
    comparison = compare(base, after)
    role = measured_role(comparison, Role.EXPANSION)
    assert role.roles == (Role.EXPANSION,)
    easy_role = measured_role(comparison.slices["easy"], Role.CONSOLIDATION)
    assert easy_role.roles == ()
    assert easy_role.as_intended is False
    assert easy_role.attrition.low > 0.6


def test_sharpening_with_loss_of_pass_k(base, evaluation) -> None:
    """GRPO on easy: pass@1 .22 to .69, pass@64 and coverage down."""
    after = evaluation([56] * 96 + [30] * 14 + [0] * 18, slice="easy") + base[M:]
    comparison = compare(base, after).slices["easy"]
    role = measured_role(comparison, Role.RESHAPING)
    assert role.roles == (Role.RESHAPING,)
    assert comparison.pass_k.delta.high < 0
    assert ", which fell" in role.verdict
    assert role.attrition.low > TOLERANCE
    assert measured_role(comparison, Role.CONSOLIDATION).as_intended is not True


def test_reshaping_that_keeps_coverage(base, evaluation) -> None:
    """One round on own verified samples: .217 to .444 and pass@64 stays."""
    after = evaluation([min(2 * row.correct, 64) for row in base[:M]], slice="easy") + base[M:]
    role = measured_role(compare(base, after), Role.RESHAPING)
    assert role.roles == (Role.RESHAPING,)
    assert "which fell" not in role.verdict


def test_consolidation_must_be_intended(base, evaluation) -> None:
    retained = evaluation([max(row.correct - 1, 1) for row in base[:M]], slice="easy") + base[M:]
    comparison = compare(base, retained)
    assert measured_role(comparison).roles == ()
    role = measured_role(comparison, Role.CONSOLIDATION)
    assert role.roles == (Role.CONSOLIDATION,)
    assert role.as_intended is True


def test_consolidation_needs_pass_k_too(evaluation) -> None:
    """The mean kept, the reach lost."""
    before, after = evaluation([32] * 100), evaluation([64] * 50 + [0] * 50)
    assert measured_role(compare(before, after), Role.CONSOLIDATION).as_intended is False


@pytest.mark.parametrize("problems", [0, 1, 2, 3])
@pytest.mark.parametrize("intended", [None, *Role])
def test_few_problems_decide_nothing(evaluation, problems: int, intended: Role | None) -> None:
    role = measured_role(compare(evaluation([2] * problems), evaluation([60] * problems)), intended)
    assert role.roles == ()
    assert role.undecided
    assert role.as_intended is None
    assert role.verdict.startswith("undecided on ")
    assert ("such problems would settle it" in role.verdict) is bool(problems)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("after", [0, 1])
def test_one_sample_of_one_problem(evaluation, before: int, after: int) -> None:
    comparison = compare(evaluation([before], n=1), evaluation([after], n=1))
    assert comparison.k == 1
    assert measured_role(comparison).roles == ()


def test_the_problems_it_asks_for_settle_it(evaluation) -> None:
    """A handful of gains among 40 problems is undecided; the same mixture at the size asked for is not."""
    few = measured_role(compare(evaluation([0] * 40), evaluation([9] + [0] * 39)), Role.EXPANSION)
    assert few.as_intended is None
    asked = int(few.verdict.split("about ")[1].split()[0])
    copies = -(-asked // 40)
    many = compare(evaluation([0] * 40 * copies), evaluation(([9] + [0] * 39) * copies))
    assert measured_role(many, Role.EXPANSION).as_intended is not None


def test_intended_role_in_doubt_beside_one_shown(evaluation) -> None:
    before, after = evaluation([10] * 40 + [0]), evaluation([50] * 40 + [20])
    role = measured_role(compare(before, after), Role.EXPANSION)
    assert role.roles == (Role.RESHAPING,)
    assert role.undecided == (Role.EXPANSION,)
    assert role.verdict.startswith("undecided on expansion, reshaping shown: pass@1 ")


def test_doubt_about_a_role_nobody_asked_for_is_no_headline(evaluation) -> None:
    comparison = compare(evaluation([32] * M), evaluation([2, 62] * (M // 2)))
    role = measured_role(comparison, Role.EXPANSION)
    assert role.undecided == (Role.RESHAPING,)
    assert role.as_intended is False
    assert role.verdict.startswith("no role, though expansion was intended: ")
    assert "settle" not in role.verdict
    assert measured_role(comparison).verdict.startswith("undecided on reshaping: ")


def test_verdict_carries_the_numbers(base) -> None:
    comparison = compare(base, base)
    verdict = measured_role(comparison).verdict
    for number in (comparison.pass_1.before, comparison.pass_k.delta, comparison.support.lost.beyond_luck):
        assert str(number) in verdict
