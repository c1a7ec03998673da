"""Samples a policy through a scaffold: of each problem the one trace that a search picks, and what that gains.

1. `majority`: a sample with the commonest answer (2203.11171). `best_of_n`: the one that a reward model scores highest
   (2110.14168, section 4.2), or a process reward model by `aggregate` of its steps' P(right). `weighted_majority`:
   votes weigh as much as these scores (2206.02336); a reward model's are made positive by a softmax over the problem's
   samples. `beam`: see `beam.py`.
2. All methods have the budget of `samples` full-length samples a problem; `beam` may keep short prefixes and drop long
   ones, so the tokens that were really sampled are reported.
3. Answers are equal if the verifier names the same one. Its score is never looked at to pick.
4. The scaffold gap is the pick's accuracy less pass@1 of the same policy on the same problems; beside it stands pass@n,
   what a perfect pick would reach. For `beam`, n plain samples are drawn for this alone.
5. The traces are the policy's own, filtered: trained on, they hand over what the search found (2604.07941, Table 5).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

from posttrain.components.rollout.stage import RolloutSettings, chosen, row_of
from posttrain.components.search.pick import Gap, best, softmax, vote
from pydantic import Field

from posttrain import verifiers
from posttrain.artifacts.problems import Problem
from posttrain.artifacts.trajectories import last_text, write_trajectories
from posttrain.errors import ConfigError, ContractError
from posttrain.generation.decoding import Completion, Decoding
from posttrain.generation.prompts import check_prompts_fit
from posttrain.generation.settings import sample_problems, sampling
from posttrain.generation.steps import AGGREGATES, separating_tokens
from posttrain.generation.tokenizer import load_tokenizer, render_all
from posttrain.progress import Progress
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import METHODS, Kind
from posttrain.verifiers.verdict import Verdict

JUDGES = ("reward_model", "process_reward_model")
# Which judges a method can use; one of them must be given, and nothing else.
_NEEDS = {"majority": (), "best_of_n": JUDGES, "weighted_majority": JUDGES, "beam": JUDGES[1:]}
# Verifiers whose answers say what is right: `regex` finds no other, `instructions` names what was followed.
_TELLING = ("regex", "instructions")


class SearchSettings(RolloutSettings):
    """The scaffold, and its budget."""

    method: Literal["majority", "best_of_n", "weighted_majority", "beam"] = Field(
        default="majority", description="how the trace is found"
    )
    samples: int = Field(default=8, gt=1, description="budget: full-length samples a problem")
    aggregate: Literal["min", "product", "mean", "last"] = Field(
        default="min", description="a solution's score from its steps', under a process reward model"
    )
    expand: int = Field(default=4, gt=1, description="beam: next steps of a kept prefix; samples / expand are kept")
    max_steps: int = Field(default=64, gt=0, description="beam: a solution with more steps is given up")


PARENTS = {
    "policy": ParentSpec(Kind.POLICY, help="the policy that is searched"),
    "problems": ParentSpec(Kind.PROBLEMS, help="what to search on"),
    "reward_model": ParentSpec(
        Kind.REWARD_MODEL, required=False, help="scores solutions, for best_of_n and weighted_majority"
    ),
    "process_reward_model": ParentSpec(
        Kind.PROCESS_REWARD_MODEL, required=False, help="scores steps, for beam, best_of_n and weighted_majority"
    ),
}


def check_settings(settings: SearchSettings) -> None:
    """Samples must differ, and a beam must be kept."""
    if settings.temperature == 0:
        raise ConfigError("search: temperature=0 makes all samples the same; there is nothing to search, raise it")
    if settings.method == "beam" and settings.samples % settings.expand:
        raise ConfigError(
            f"search: samples={settings.samples} is not a multiple of expand={settings.expand}; beam keeps "
            "samples / expand prefixes"
        )


def check(settings: SearchSettings, parents: Parents) -> None:
    """The method must have its judge and no other, prompts must fit, verifiers be there, and answers be told apart."""
    given = [role for role in JUDGES if parents.maybe(role)]
    needs = _NEEDS[settings.method]
    if len(given) != bool(needs) or not set(given) <= set(needs):
        raise ContractError(
            f"search: method={settings.method} takes {'one of ' + ', '.join(needs) if needs else 'no judge'}, "
            f"not {' and '.join(given) or 'none'}"
        )
    problems = chosen(settings, parents)
    _bench(problems)
    check_prompts_fit(parents.one("policy"), problems, settings.max_new_tokens)
    for role in given:
        judge = parents.maybe(role)
        if judge is not None:
            check_prompts_fit(judge, problems, settings.max_new_tokens)
    if settings.method == "beam":
        separator = str(parents.all("process_reward_model")[0].record.facts["separator"])
        separating_tokens(load_tokenizer(parents.one("policy").path), separator)
    telling = next((problem for problem in problems if problem.verifier in _TELLING), None)
    if telling and settings.method.endswith("majority"):
        raise ContractError(
            f"search: problem {telling.id!r}: {telling.verifier} names answers by what is right in them, so votes "
            "would know which are right; use a verifier that reads any answer, or method=best_of_n"
        )


def _bench(problems: Sequence[Problem]) -> verifiers.Bench:
    """Who verifies; one that is unknown or not configured is refused."""
    return verifiers.Bench(problem.verifier for problem in problems)


def run(settings: SearchSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Sample, pick, measure the gap, and write one row a problem."""
    policy, problems = parents.one("policy"), chosen(settings, parents)
    bench, sampled = _bench(problems), sample_problems(policy, problems, settings, progress)
    verdicts = judged(problems, sampled)
    plainly = sum(len(each.tokens) for completions in sampled for each in completions)
    counts: Counter[str] = Counter()
    if settings.method == "beam":
        picked, spent = beamed(settings, parents, problems, progress)
    else:
        picked, spent = picks(settings, parents, problems, sampled, verdicts, counts), plainly
    found = [verdict for [verdict] in judged(problems, [[completion] for completion in picked])]
    write_trajectories(
        [
            row_of(problem, trace, policy.digest, "search") | {"reward": verdict.score, "answer": verdict.answer}
            for problem, trace, verdict in zip(problems, picked, found, strict=True)
        ],
        out,
    )
    gap = Gap.of(found, verdicts, settings.seed)
    a_problem = {"tokens_per_problem": spent / len(problems), "plain_tokens_per_problem": plainly / len(problems)}
    return Work(
        facts={"rows": len(problems), "shape": "prompt-completion", "sampler": policy.digest, **bench.facts()},
        metrics=gap.metrics() | a_problem,
        counts={
            "problems": len(problems),
            "samples": sum(map(len, verdicts)),
            "without_answer": sum(verdict.answer is None for each in verdicts for verdict in each),
            "unscorable": sum(verdict.score is None for each in verdicts for verdict in each),
            "unscorable_picks": sum(verdict.score is None for verdict in found),
            "truncated_picks": sum(trace.finish == "length" for trace in picked),
            "undecided": counts["undecided"],
        },
        blocks=gap.blocks(METHODS[settings.method].title, settings.samples, *a_problem.values()),
    )


def judged(problems: Sequence[Problem], sampled: Sequence[Sequence[Completion]]) -> list[list[Verdict]]:
    """The verifiers' verdicts; for picking, only their answers count."""
    verdicts = verifiers.verify_all(
        [
            verifiers.Ask(each.text, problem.verifier, problem.reference, last_text(problem.prompt))
            for problem, completions in zip(problems, sampled, strict=True)
            for each in completions
        ]
    )
    return [list(islice(verdicts, len(completions))) for completions in sampled]


def picks(
    settings: SearchSettings,
    parents: Parents,
    problems: Sequence[Problem],
    sampled: Sequence[Sequence[Completion]],
    verdicts: Sequence[Sequence[Verdict]],
    counts: Counter[str],
) -> list[Completion]:
    """One of each problem's samples.

    Args:
        counts: gains `undecided`, problems in which no sample has an answer to vote for; their first one is taken.
    """
    weights = [[1.0] * len(completions) for completions in sampled]
    if settings.method != "majority":
        weights = scored(settings, parents, problems, sampled)
    found = []
    for completions, judgements, weights_N in zip(sampled, verdicts, weights, strict=True):
        if settings.method == "best_of_n":
            found.append(completions[best(weights_N)])
            continue
        # A prefix that ran out of room may hold what looks like an answer; so may any.
        index = vote([verdict.answer for verdict in judgements], weights_N)
        counts["undecided"] += index is None
        found.append(completions[index or 0])
    return found


def scored(
    settings: SearchSettings, parents: Parents, problems: Sequence[Problem], sampled: Sequence[Sequence[Completion]]
) -> list[list[float]]:
    """The judge's score of every sample; positive where it is to weigh a vote."""
    from posttrain.generation.process import StepScorer
    from posttrain.generation.scoring import Text, reward_scores

    flat = [(p.prompt, each) for p, completions in zip(problems, sampled, strict=True) for each in completions]
    if process := parents.maybe("process_reward_model"):
        steps = StepScorer(process)([(prompt, each.text) for prompt, each in flat])
        combine = AGGREGATES[settings.aggregate]
        scores = [combine(each) if each else 0.0 for each in steps]
    else:
        texts = [Text(prompt, each.text, each.finish == "eos") for prompt, each in flat]
        scores = reward_scores(parents.all("reward_model")[0].path, texts).tolist()
    left = iter(scores)
    grouped = [[next(left) for _ in completions] for completions in sampled]
    if process or settings.method == "best_of_n":
        return grouped
    return [softmax(scores_N) for scores_N in grouped]


def beamed(
    settings: SearchSettings, parents: Parents, problems: Sequence[Problem], progress: Progress
) -> tuple[list[Completion], int]:
    """Each problem's best beam, and the tokens that were sampled."""
    from posttrain.components.search.beam import BeamSearch, given_up

    from posttrain.generation.process import StepScorer

    policy = parents.one("policy")
    tokenizer = load_tokenizer(policy.path)
    longest = max(map(len, render_all(tokenizer, [problem.prompt for problem in problems])))
    scorer, combine = StepScorer(parents.all("process_reward_model")[0]), AGGREGATES[settings.aggregate]

    def score(prefixes: Sequence[tuple[Problem, str]]) -> list[float]:
        steps = scorer([(problem.prompt, text) for problem, text in prefixes])
        return [combine(each) if each else 0.0 for each in steps]

    decoding = Decoding(**settings.model_dump(include=set(Decoding.model_fields)))
    with sampling(policy, longest + settings.max_new_tokens, settings) as sample:
        search = BeamSearch(sample, tokenizer, score, scorer.separator, decoding, settings.expand, settings.max_steps)
        return [given_up(beam) for beam in search(problems, progress)], search.tokens


STAGE = Stage(
    name="search",
    output="traces",
    makes=Kind.TRAJECTORIES,
    parents=PARENTS,
    settings=SearchSettings,
    run=run,
    check_settings=check_settings,
    check=check,
    method=lambda settings: settings.method,
    image="sample",
)
