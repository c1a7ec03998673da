"""From completions to rows: verdicts, votes, lengths, and a probe of the verifier itself."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from posttrain.artifacts.evaluation import Measured
from posttrain.artifacts.problems import Problem
from posttrain.artifacts.samples import Sampled
from posttrain.artifacts.trajectories import last_text
from posttrain.generation.decoding import Completion
from posttrain.verifiers import Ask, verify_all
from posttrain.verifiers.verdict import Verdict

# Completions of other problems shown to each problem's verifier.
_SWAPS = 4

Completions = Sequence[Sequence[Completion]]


def measure_all(problems: Sequence[Problem], sampled: Completions, foreign: Sequence[Sequence[str]]) -> list[Measured]:
    """Each problem's row.

    Args:
        foreign: for each problem, completions sampled for others. A verifier that accepts them answers to the form of
            an answer, not to what it says (rule D0).
    """
    texts = [
        [completion.text for completion in completions] + list(others)
        for completions, others in zip(sampled, foreign, strict=True)
    ]
    verdicts = verify_all(
        [
            Ask(text, problem.verifier, problem.reference, last_text(problem.prompt))
            for problem, each in zip(problems, texts, strict=True)
            for text in each
        ]
    )
    return [
        _measured(problem, completions, list(islice(verdicts, len(completions))), list(islice(verdicts, len(others))))
        for problem, completions, others in zip(problems, sampled, foreign, strict=True)
    ]


def _measured(
    problem: Problem, completions: Sequence[Completion], verdicts: Sequence[Verdict], swapped: Sequence[Verdict]
) -> Measured:
    given, right = _answers(verdicts, completions)
    accepted = [verdict.score for verdict in swapped]
    return Measured(
        problem_id=problem.id,
        slice=problem.slice,
        scores=[verdict.score for verdict in verdicts],
        answers=list(given),
        answer_counts=list(given.values()),
        answer_right=[answer in right for answer in given],
        tokens=[len(completion.tokens) for completion in completions],
        truncated=sum(completion.finish == "length" for completion in completions),
        logprobs=[sum(completion.logprobs) for completion in completions],
        swapped=sum(score is not None for score in accepted),
        swapped_accepted=sum(score == 1 for score in accepted),
    )


def _answers(verdicts: Sequence[Verdict], completions: Sequence[Completion]) -> tuple[dict[str, int], set[str]]:
    """How often each distinct answer was given, and the right ones; a right completion without answer is its own."""
    named = [
        verdict.answer if verdict.answer is not None else completion.text if verdict.score == 1 else None
        for verdict, completion in zip(verdicts, completions, strict=True)
    ]
    counts = Counter(answer for answer in named if answer is not None)
    right = {a for a, verdict in zip(named, verdicts, strict=True) if a is not None and verdict.score == 1}
    return dict(sorted(counts.items())), right


def foreign_completions(problems: Sequence[Problem], sampled: Completions, seed: int) -> Iterator[list[str]]:
    """For each problem, first completions of a few others whose reference differs; no new samples."""
    order = list(range(len(problems)))
    random.Random(seed).shuffle(order)
    place = {index: position for position, index in enumerate(order)}
    for index, problem in enumerate(problems):
        others = (order[(place[index] + step) % len(order)] for step in range(1, _SWAPS + 1))
        yield [sampled[o][0].text for o in others if o != index and problems[o].reference != problem.reference]


def kept_samples(
    problems: Sequence[Problem], sampled: Completions, rows: Sequence[Measured], most: int
) -> list[Sampled]:
    """The first completions of each problem, up to `most`."""
    return [
        Sampled(
            problem_id=problem.id,
            slice=problem.slice,
            prompt=problem.prompt,
            completion=completion.text,
            logprobs=completion.logprobs,
            score=score,
            finish=completion.finish,
        )
        for problem, completions, row in zip(problems, sampled, rows, strict=True)
        for completion, score in list(zip(completions, row.scores, strict=True))[:most]
    ]
