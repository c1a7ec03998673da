"""Signals that need the policy: given texts scored under it, forward passes only.

How surprising demonstrations are, whether sampler and learner agree, how far the policy is from the one before, and
whether a reward model agrees with the verifier. Completions are those that evaluations kept; nothing is sampled.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from posttrain.components.diagnose.inputs import measured, measured_before

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.samples import Sampled, read_samples
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.diagnosis import divergence
from posttrain.diagnosis.demonstrations import surprise
from posttrain.diagnosis.intervals import Interval, bootstrap, share
from posttrain.diagnosis.passk import Floats
from posttrain.diagnosis.selection import agreement_auc, best_of_k
from posttrain.progress import Progress
from posttrain.stage import Parents

if TYPE_CHECKING:
    from posttrain.generation.scoring import Text

Found = dict[str, Interval]


class ProbeSettings(Protocol):
    """What a probe needs of the stage's settings."""

    @property
    def probe_rows(self) -> int: ...
    @property
    def batch_rows(self) -> int: ...
    @property
    def improbable(self) -> float: ...
    @property
    def seed(self) -> int: ...


def probe_signals(settings: ProbeSettings, parents: Parents, progress: Progress) -> Found:
    """Every signal that the given parents allow."""
    policy = parents.maybe("policy")
    if policy is None or settings.probe_rows == 0:
        return {}
    found: Found = {}
    scorer = _Scorer(policy, settings, progress)
    if demos := parents.maybe("demos"):
        found |= _demo_signals(demos, scorer, settings)
    if own := _some(read_samples(measured(parents).path), settings):
        found |= _mismatch_signals(own, scorer)
    if (before := measured_before(parents)) and (earlier := _some(read_samples(before.path), settings)):
        found |= _drift_signals(earlier, scorer, settings)
    if reward_model := parents.maybe("reward_model"):
        found |= _reward_signals(reward_model, read_samples(measured(parents).path), settings)
    return found


def audit_signals(audit: Artifact | None) -> Found:
    """How often the verifier accepts what a person calls wrong, and refuses what a person calls right."""
    if audit is None:
        return {}
    from posttrain import verifiers

    accepted: dict[bool, list[bool]] = {True: [], False: []}
    rows = read_trajectories(audit.path)
    asks = [verifiers.Ask(row["completion"], row["verifier"], row.get("reference"), row["prompt"]) for row in rows]
    for row, verdict in zip(rows, verifiers.verify_all(asks), strict=True):
        if verdict.score is not None:
            accepted[bool(row["label"])].append(verdict.score == 1)
    wrong, right = accepted[False], accepted[True]
    return {
        **({"false_positive": share(sum(wrong), len(wrong))} if wrong else {}),
        **({"false_negative": share(len(right) - sum(right), len(right))} if right else {}),
    }


class _Scorer:
    """The policy, loaded once, at the first text."""

    def __init__(self, policy: Artifact, settings: ProbeSettings, progress: Progress) -> None:
        self._policy, self._settings, self._progress = policy, settings, progress
        self._loaded: Any = None

    def __call__(self, texts: Sequence[Text], what: str) -> list[Floats]:
        from posttrain.generation.scoring import completion_logprobs
        from posttrain.generation.transformers import load_policy

        self._loaded = self._loaded or load_policy(self._policy.path)
        model, tokenizer = self._loaded
        return completion_logprobs(
            model,
            tokenizer,
            texts,
            self._settings.batch_rows,
            lambda done, total: self._progress.update(done, total, what),
        )


def _some(rows: Sequence[Any], settings: ProbeSettings) -> list[Any]:
    if len(rows) <= settings.probe_rows:
        return list(rows)
    return [rows[i] for i in sorted(random.Random(settings.seed).sample(range(len(rows)), settings.probe_rows))]


def _demo_signals(demos: Artifact, scorer: _Scorer, settings: ProbeSettings) -> Found:
    from posttrain.generation.scoring import Text

    rows = [row for row in _some(read_trajectories(demos.path), settings) if "completion" in row]
    logprobs = [values for values in scorer([Text(r["prompt"], r["completion"]) for r in rows], "demos") if len(values)]
    if not logprobs:
        return {}
    found = surprise(logprobs, settings.improbable, settings.seed)
    return {
        "demo_loss": found.loss,
        "demo_improbable": found.improbable_tokens,
        "demo_surprising": found.surprising,
    }


def _rescored(samples: Sequence[Sampled], scorer: _Scorer, what: str) -> list[tuple[Floats, Floats]]:
    """(now, when sampled) token log-probabilities of each completion that reads back as the tokens that were drawn."""
    from posttrain.generation.scoring import Text

    now = scorer([Text(s.prompt, s.completion, s.finish == "eos") for s in samples], what)
    then = [np.array(s.logprobs) for s in samples]
    return [(a, b) for a, b in zip(now, then, strict=True) if len(a) == len(b) and len(a)]


def _mismatch_signals(own: Sequence[Sampled], scorer: _Scorer) -> Found:
    """The same weights score their own samples: what differs is the engine, the precision or the template."""
    pairs = _rescored(own, scorer, "own samples")
    if not pairs:
        return {}
    learner, sampler = (np.concatenate(side) for side in zip(*pairs, strict=True))
    found = divergence.mismatch(learner, sampler)
    gaps = [float(np.abs(a - b).mean()) for a, b in pairs]
    effective = found.effective_share
    return {
        "mismatch": bootstrap(gaps, 0, bounds=None),
        "effective_share": Interval(effective, effective, effective),
    }


def _drift_signals(earlier: Sequence[Sampled], scorer: _Scorer, settings: ProbeSettings) -> Found:
    """Forward KL from the policy before, on its own samples: foretells forgetting (2509.04259)."""
    pairs = _rescored(earlier, scorer, "earlier samples")
    if not pairs:
        return {}
    sums = np.array([(b.sum(), a.sum()) for a, b in pairs])
    return {"forward_kl": bootstrap(divergence.forward_kl(sums[:, 0], sums[:, 1]), settings.seed, bounds=None)}


def _reward_signals(reward_model: Artifact, samples: Sequence[Sampled], settings: ProbeSettings) -> Found:
    """Whether the reward model prefers right over wrong, and what its best of k falls short of pass@k."""
    from posttrain.generation.scoring import Text, reward_scores

    scored = [s for s in samples if s.score is not None]
    if not scored:
        return {}
    values = reward_scores(reward_model.path, [Text(s.prompt, s.completion) for s in scored], settings.batch_rows)
    right = np.array([s.score == 1 for s in scored])
    auc = agreement_auc(values, right)
    by_problem: dict[str, list[int]] = {}
    for index, sample in enumerate(scored):
        by_problem.setdefault(sample.problem_id, []).append(index)
    k = min(map(len, by_problem.values()))
    rows = np.array([indices[:k] for indices in by_problem.values()])
    gap_M = right[rows].any(1) - best_of_k(values[rows], right[rows], k)
    return {
        "reward_disagreement": Interval(1 - auc, 1 - auc, 1 - auc),
        "selector_gap": bootstrap(gap_M, settings.seed),
    }
