"""Provenance, computed row by row from who sampled a trajectory and who learns from it.

Filtered own samples trained on as a fixed batch are self-generated 1.0 and on-policy 0.0, so off-policy: improvement
is carried out on a fixed offline batch (arXiv 2604.07941 v1, section 4.3). An online stage is on-policy to the extent
that the optimizer steps between sampling and update stay within the bound it states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict, Field

from posttrain.errors import ProvenanceError
from posttrain.taxonomy import METHODS, Provenance


class Trace(BaseModel):
    """What was learned from, by share. Fractions are of rows (trajectories consumed), each in [0, 1]."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provenance: Provenance
    on_policy_fraction: float = Field(ge=0, le=1)
    self_generated_fraction: float = Field(ge=0, le=1)
    rows: int = Field(ge=0)
    samplers: dict[str, int] = Field(
        default_factory=dict, description="sampler digest ('' = not a known policy) → rows"
    )
    staleness: dict[int, int] = Field(default_factory=dict, description="optimizer steps since sampling → rows")


def offline(samplers: Iterable[str | None], learner: str) -> Trace:
    """The trace of a stage that trains on a fixed batch.

    Args:
        samplers: each row's sampler digest; None or "" where a person or an unknown source wrote it.
        learner: digest of the policy that the stage starts from.
    """
    counted = Counter(sampler or "" for sampler in samplers)
    rows = sum(counted.values())
    own = counted[learner] / rows if rows else 0.0
    return Trace(
        provenance=Provenance.OFF_POLICY,
        on_policy_fraction=0.0,
        self_generated_fraction=own,
        rows=rows,
        samplers=dict(sorted(counted.items())),
    )


def online(staleness: Mapping[int, int], learner: str, bound: int) -> Trace:
    """The trace of a stage that samples its own trajectories.

    Args:
        staleness: optimizer steps between sampling and update → trajectories, as really seen.
        learner: digest of the policy that the stage starts from (later states of it are the same learner).
        bound: the largest staleness that still counts as on-policy.
    """
    rows = sum(staleness.values())
    fresh = sum(count for steps, count in staleness.items() if steps <= bound)
    fraction = fresh / rows if rows else 0.0
    return Trace(
        provenance=Provenance.ON_POLICY if rows and fresh == rows else Provenance.MIXED,
        on_policy_fraction=fraction,
        self_generated_fraction=1.0 if rows else 0.0,
        rows=rows,
        samplers={learner: rows},
        staleness=dict(sorted(staleness.items())),
    )


def mixed(online_part: Trace, fixed: Mapping[str, int], learner: str) -> Trace:
    """The trace of a stage that samples some of its trajectories and takes the others from a fixed batch.

    Args:
        online_part: the trace of those it sampled.
        fixed: sampler digest ('' = not a known policy) → fixed trajectories consumed.
        learner: digest of the policy that the stage starts from.
    """
    given = sum(fixed.values())
    rows = online_part.rows + given
    if not given or not rows:
        return online_part
    fraction = online_part.on_policy_fraction * online_part.rows / rows
    counted = Counter({learner: online_part.rows} if online_part.rows else {}) + Counter(dict(fixed))
    return Trace(
        provenance=Provenance.MIXED if online_part.rows else Provenance.OFF_POLICY,
        on_policy_fraction=fraction,
        self_generated_fraction=counted[learner] / rows,
        rows=rows,
        samplers=dict(sorted(counted.items())),
        staleness=online_part.staleness,
    )


def agree(method: str, trace: Trace, accepted: str = "") -> None:
    """Compare what the method promises with what was computed. Who promises a mixture promises no share of it.

    Args:
        method: a name in the catalogue.
        accepted: a provenance that the user accepts by name although the method promises another.

    Raises:
        ProvenanceError: they differ and the difference was not accepted.
    """
    promised = METHODS[method].provenance
    if promised is Provenance.MIXED or trace.provenance in (promised, accepted):
        return
    raise ProvenanceError(
        f"{method} promises {promised} trajectories, but {1 - trace.on_policy_fraction:.1%} of {trace.rows} rows "
        f"make it {trace.provenance} (staleness → rows: {trace.staleness}); lower the reuse of rollouts, raise "
        f"max_staleness, or accept it with accept_provenance={trace.provenance}"
    )
