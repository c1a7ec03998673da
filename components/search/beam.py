"""Beam search over steps, guided by a process reward model (2408.03314, section 5.2).

Of a problem n first steps are sampled; the n / m best prefixes are kept, and m next steps sampled from each, until all
kept ones are finished. Sampling stops at the end of a step, so nothing is drawn and thrown away; a prefix that was
found twice is kept once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from posttrain.artifacts.problems import Problem
from posttrain.generation.decoding import Completion, Decoding
from posttrain.generation.engine import Sampler
from posttrain.generation.steps import separating_tokens
from posttrain.generation.tokenizer import render_all
from posttrain.progress import Progress

Score = Callable[[Sequence[tuple[Problem, str]]], list[float]]


@dataclass(frozen=True)
class Beam:
    """A prefix of a solution; one that goes on has `finish` "stop"."""

    so_far: Completion = field(default_factory=lambda: Completion("", [], [], "stop"))
    score: float = 0.0

    @property
    def goes_on(self) -> bool:
        return self.so_far.finish == "stop"


@dataclass
class BeamSearch:
    """One policy's search.

    Args:
        decoding: `samples` is n, `max_new_tokens` the longest solution.
        expand: m, next steps of each prefix that is kept.
        most_steps: a solution with more is given up as it is.
    """

    sample: Sampler
    tokenizer: Any
    score: Score
    separator: str
    decoding: Decoding
    expand: int
    most_steps: int
    tokens: int = 0
    """Tokens sampled so far."""

    def __call__(self, problems: Sequence[Problem], progress: Progress) -> list[Beam]:
        """The best solution of each problem: finished before unfinished, then by score."""
        self._stops = separating_tokens(self.tokenizer, self.separator)
        prompts = render_all(self.tokenizer, [problem.prompt for problem in problems])
        beams = [[Beam()] for _ in problems]
        for step in range(self.most_steps):
            alive = [(number, beam) for number, kept in enumerate(beams) for beam in kept if beam.goes_on]
            if not alive:
                break
            self._advance(step, problems, prompts, beams, alive)
            progress.update(step + 1, self.most_steps, "step")
        return [max(kept, key=lambda beam: (beam.so_far.finish == "eos", beam.score)) for kept in beams]

    def _advance(
        self,
        step: int,
        problems: Sequence[Problem],
        prompts: Sequence[list[int]],
        beams: list[list[Beam]],
        alive: Sequence[tuple[int, Beam]],
    ) -> None:
        """One more step of all beams that go on; then the best of each problem."""
        rooms = [self.decoding.max_new_tokens - len(beam.so_far.tokens) for _, beam in alive]
        changes = {
            "samples": self.expand if step else self.decoding.samples,
            "max_new_tokens": max(rooms),
            # Each step draws anew: a prefix at the place of an earlier one must not get its numbers again.
            "seed": int(np.random.SeedSequence([self.decoding.seed, step]).generate_state(1)[0]),
        }
        sampled = self.sample(
            [prompts[number] + beam.so_far.tokens for number, beam in alive],
            self.decoding.model_copy(update=changes),
            self._stops,
            rooms,
        )
        self.tokens += sum(len(each.tokens) for continuations in sampled for each in continuations)
        grown = [
            (number, self._grown(beam.so_far, each))
            for (number, beam), continuations in zip(alive, sampled, strict=True)
            for each in continuations
        ]
        scores = self.score([(problems[number], completion.text) for number, completion in grown])
        pools = [[beam for beam in kept if not beam.goes_on] for kept in beams]
        for (number, completion), score in zip(grown, scores, strict=True):
            pools[number].append(Beam(completion, score))
        for number in dict(alive):
            beams[number] = self._best(pools[number])

    def _grown(self, so_far: Completion, more: Completion) -> Completion:
        """Decoded together: some tokenizers drop a space where a text begins."""
        tokens = so_far.tokens + more.tokens
        full = len(tokens) == self.decoding.max_new_tokens and more.finish == "stop"
        text = self.tokenizer.decode(tokens[:-1] if more.finish == "eos" else tokens, skip_special_tokens=True)
        return Completion(text, tokens, so_far.logprobs + more.logprobs, "length" if full else more.finish)

    def _best(self, pool: Sequence[Beam]) -> list[Beam]:
        distinct = {tuple(beam.so_far.tokens): beam for beam in reversed(pool)}
        ranked = sorted(reversed(distinct.values()), key=lambda beam: -beam.score)
        return ranked[: self.decoding.samples // self.expand]


def given_up(beam: Beam) -> Completion:
    """The solution as a trace has it: one that was still going on was cut."""
    return replace(beam.so_far, finish="length") if beam.goes_on else beam.so_far
