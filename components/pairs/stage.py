"""Preference pairs from trajectories: for one prompt, a better answer beside a worse one.

1. Answers are compared within a problem only, by their verified rewards (a judge is a verifier, too), or by a parent
   `reward_model`'s scores; equal answers count once.
2. `best_worst` ranks a problem's answers and pairs the best with the worst, the second with the last but one, and so
   on: no answer is used twice. `margin` takes the pairs with the largest differences, `random` any; both may use an
   answer in several pairs. Ties are broken at random, by the seed and the problem alone.
3. `delta` asks no score: a stronger policy's answer is put before a weaker one's (delta learning, 2507.06187), which
   teaches even where both are weaker than the learner.
4. A problem whose answers are all alike has no contrast to learn from: it is counted, as are answers that could not be
   scored and pairs with an answer that its sampler never ended.
5. With a parent `learner` the page says how far it is from who sampled the answers; pairs that are too stale for it
   (`max_distance`) are refused.
With rewards of right and wrong this is the construction of iterative reasoning preference optimisation (2404.19733,
section 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from posttrain.components.pairs.pairing import Pair, by_problem, delta_pairs, distinct, pair_row, ranked_pairs
from pydantic import Field

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.rows import Row
from posttrain.artifacts.trajectories import read_trajectories, write_trajectories
from posttrain.errors import ConfigError, ContractError, DataError
from posttrain.progress import Progress
from posttrain.settings import Settings
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind


class PairsSettings(Settings):
    """Which answers to pair."""

    method: Literal["best_worst", "margin", "random", "delta"] = Field(
        default="best_worst", description="what is paired first; delta = a stronger sampler's with a weaker one's"
    )
    min_margin: float = Field(default=0.0, ge=0, description="smallest difference of the scores; 0 = any difference")
    max_pairs_per_problem: int = Field(default=1, ge=0, description="keep at most so many pairs a problem; 0 = all")
    max_distance: float = Field(
        default=0.0, ge=0, description="largest KL(sampler ‖ learner), nats a token; 0 = only report it"
    )


PARENTS = {
    "trajectories": ParentSpec(Kind.TRAJECTORIES, help="scored answers, several a problem, as verify makes"),
    "weaker": ParentSpec(Kind.TRAJECTORIES, required=False, help="a weaker policy's answers, to be rejected (delta)"),
    "reward_model": ParentSpec(Kind.REWARD_MODEL, required=False, help="ranks the answers in place of their rewards"),
    "learner": ParentSpec(Kind.POLICY, required=False, help="who will learn from the pairs: how stale are they?"),
}


def check_settings(settings: PairsSettings) -> None:
    """Delta learning has no scores to differ."""
    if settings.method == "delta" and settings.min_margin:
        raise ConfigError(
            f"pairs: min_margin={settings.min_margin} with method=delta, which scores nothing; leave it out"
        )


def check(settings: PairsSettings, parents: Parents) -> None:
    """The rows must be single answers with what the method compares them by."""
    source, weaker, judge = parents.one("trajectories"), parents.maybe("weaker"), parents.maybe("reward_model")
    for role, given in (("trajectories", source), *([("weaker", weaker)] if weaker else [])):
        shape = given.record.facts.get("shape")
        if shape != "prompt-completion":
            raise ContractError(f"pairs: {role} have shape {shape!r}; give prompt-completion rows")
    if settings.max_distance and not parents.maybe("learner"):
        raise ContractError(f"pairs: max_distance={settings.max_distance} without a parent 'learner'; give the policy")
    rows = read_trajectories(source.path)
    if settings.method == "delta":
        _check_delta(rows, weaker, judge)
    elif weaker:
        raise ContractError(f"pairs: method={settings.method} has no use for a parent 'weaker'; choose method=delta")
    elif not judge and not any("reward" in row for row in rows):
        raise ContractError(
            "pairs: trajectories have no rewards; score them with verify first, or give a parent 'reward_model'"
        )


def _check_delta(rows: list[Row], weaker: Artifact | None, judge: Artifact | None) -> None:
    if not weaker:
        raise ContractError(
            "pairs: method=delta needs a parent 'weaker': a weaker policy's answers to the same problems"
        )
    if judge:
        raise ContractError("pairs: method=delta scores nothing; leave the parent 'reward_model' out")
    both = {row.get("sampler") for row in rows} & {row.get("sampler") for row in read_trajectories(weaker.path)} - {
        None
    }
    if both:
        raise ContractError(
            f"pairs: {sorted(map(str, both))[0][:12]} sampled both trajectories and weaker, so there is no difference "
            "to learn from; give two policies' answers"
        )


@dataclass(frozen=True)
class Found:
    """The pairs of every problem, and what could not be used."""

    pairs: list[Pair]
    counts: dict[str, int]


def run(settings: PairsSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Score if asked to, group, pair, measure the distance, write."""
    rows, weaker = read_trajectories(parents.one("trajectories").path), parents.maybe("weaker")
    judge, learner = parents.maybe("reward_model"), parents.maybe("learner")
    by = "score" if judge else "reward"
    if judge:
        _score(rows, judge, progress)
    found = _against(rows, read_trajectories(weaker.path), settings) if weaker else _ranked(rows, by, settings)
    pairs = found.pairs
    work = Work(facts={"rows": len(pairs), "shape": "preference", "ranked_by": "sampler" if weaker else by})
    work.counts = found.counts | {
        "pairs": len(pairs),
        "unfinished": sum(any(row.get("finish") == "length" for row in pair) for pair in pairs),
    }
    work.metrics = {"paired_share": 1 - found.counts["no_contrast"] / found.counts["problems"]}
    margins = [better[by] - worse[by] for better, worse in pairs if None not in (better.get(by), worse.get(by))]
    if margins:
        work.metrics["mean_margin"] = sum(margins) / len(margins)
    if learner:
        _report_distance(work, pairs, learner, settings, progress)
    write_trajectories([pair_row(*pair) for pair in pairs], out)
    progress.update(1, 1, f"{len(pairs)} pairs from {found.counts['problems']} problems")
    return work


def _score(rows: list[Row], judge: Artifact, progress: Progress) -> None:
    from posttrain.generation.scoring import Text, reward_scores

    texts = [Text(row["prompt"], row["completion"]) for row in rows]
    said = reward_scores(judge.path, texts, on_progress=lambda done, total: progress.update(done, total, "answer"))
    for row, score in zip(rows, said, strict=True):
        row["score"] = float(score)


def _ranked(rows: list[Row], by: str, settings: PairsSettings) -> Found:
    scored = [row for row in rows if row.get(by) is not None]
    answers = by_problem(distinct(scored))
    problems = by_problem(rows)
    most = settings.max_pairs_per_problem or None
    paired = {
        name: ranked_pairs(answers.get(name, []), settings.method, name, settings.seed, by, settings.min_margin)[:most]
        for name in problems
    }
    pairs, kept = [pair for found in paired.values() for pair in found], sum(map(len, answers.values()))
    without = sum(not found for found in paired.values())
    if not pairs:
        raise DataError(
            f"pairs: in none of {len(problems)} problems do two of the {kept} scored answers differ by "
            f"min_margin={settings.min_margin}; sample more, other problems, or lower it"
        )
    counts = {"trajectories": len(rows), "unscorable": len(rows) - len(scored), "duplicates": len(scored) - kept}
    return Found(pairs, counts | {"problems": len(problems), "no_contrast": without})


def _against(rows: list[Row], weaker: list[Row], settings: PairsSettings) -> Found:
    stronger, lesser = by_problem(distinct(rows)), by_problem(distinct(weaker))
    most = settings.max_pairs_per_problem or None
    problems = sorted(stronger.keys() | lesser.keys())
    paired = [delta_pairs(stronger.get(p, []), lesser.get(p, []), p, settings.seed)[:most] for p in problems]
    pairs = [pair for found in paired for pair in found]
    if not pairs:
        raise DataError(
            f"pairs: none of {len(problems)} problems has an answer of both policies that differs; sample both on the "
            "same problems"
        )
    kept = sum(map(len, [*stronger.values(), *lesser.values()]))
    counts = {"trajectories": len(rows) + len(weaker), "duplicates": len(rows) + len(weaker) - kept}
    return Found(pairs, counts | {"problems": len(problems), "no_contrast": sum(not found for found in paired)})


def _report_distance(
    work: Work, pairs: list[Pair], learner: Artifact, settings: PairsSettings, progress: Progress
) -> None:
    """Measure it, and refuse pairs that are too stale.

    Raises:
        ContractError: they are, or nothing is known of who sampled them while a bound is set.
    """
    from posttrain.components.pairs.distance import distance, distance_blocks, distance_metrics

    found = distance(pairs, learner, settings.seed, progress)
    work.metrics |= distance_metrics(found)
    work.counts |= {"unknown_logprobs": found.unknown, "retokenised": found.retokenised}
    work.blocks = distance_blocks(found)
    bound = settings.max_distance
    if bound and not found.answers:
        raise ContractError(
            f"pairs: max_distance={bound}, but no answer has its sampler's log-probabilities; sample with rollout"
        )
    if bound and found.kl.estimate > bound:
        raise ContractError(
            f"pairs: KL(sampler ‖ learner) is {found.kl} nats a token, over max_distance={bound}: the pairs are stale; "
            "sample the learner again (as iterative-dpo does each round), or raise max_distance"
        )


STAGE = Stage(
    name="pairs",
    output="preferences",
    makes=Kind.TRAJECTORIES,
    parents=PARENTS,
    settings=PairsSettings,
    run=run,
    check_settings=check_settings,
    check=check,
    method=lambda settings: settings.method,
)
