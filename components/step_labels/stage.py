"""Labels the steps of solutions by rollouts from where each step ends (Math-Shepherd, 2312.08935).

1. A solution is cut after each `separator`; from the prompt and from the end of every step but a finished solution's
   last, the completer samples continuations, and the problem's verifier judges them.
2. A step's label is the share of right ones (soft estimation, eq. 4). The hard label (eq. 3) is whether any was right,
   so label > 0: trainers round for themselves. A finished solution's last step is labelled by its own verdict.
3. Prefixes are prefixes of the solution's tokens, never text tokenised anew (`posttrain.generation.steps`). Prefixes
   that solutions share are rolled out once, if the same verifier judges them by the same reference.
4. The same rollouts say from where a right answer can still be reached: `reachability.py` measures that.

A label is about the completer: a step from which another policy would go on rightly may be a dead end to this one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from posttrain.components.step_labels.reachability import Path as Reached
from posttrain.components.step_labels.reachability import reachability_blocks, reachability_metrics
from pydantic import Field

from posttrain import verifiers
from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.digests import digest_value
from posttrain.artifacts.rows import Row
from posttrain.artifacts.trajectories import (
    completion_text,
    problem_of,
    prompt_of,
    read_trajectories,
    write_trajectories,
)
from posttrain.errors import ContractError, DataError
from posttrain.generation.decoding import Completion
from posttrain.generation.settings import SamplingSettings, sample_prompts
from posttrain.generation.steps import Steps, split_steps
from posttrain.progress import Progress
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind

_COUNTED = (
    "steps",
    "without_steps",
    "truncated",
    "too_long",
    "retokenised",
    "unscorable",
    "prefixes",
    "prefixes_shared",
    "continuations_unscorable",
)

Prefix = tuple[str, tuple[int, ...]]  # by what it is judged, and the tokens of prompt and steps


class StepLabelSettings(SamplingSettings):
    """Where steps end, and how continuations are sampled."""

    separator: str = Field(default="\n", min_length=1, description="what ends a step")
    samples: int = Field(default=8, gt=0, description="continuations of each prefix")
    max_new_tokens: int = Field(default=512, gt=0, description="longest continuation, in tokens")


PARENTS = {
    "policy": ParentSpec(Kind.POLICY, help="the completer, which goes on from each step"),
    "trajectories": ParentSpec(Kind.TRAJECTORIES, help="solutions with verifier and reference, such as rollouts"),
}


def check(settings: StepLabelSettings, parents: Parents) -> None:
    """Rows must be single solutions whose verifiers are there, and the completer must read their prompts."""
    rows, facts = read_trajectories(parents.one("trajectories").path), parents.one("trajectories").record.facts
    if facts.get("shape") != "prompt-completion":
        raise ContractError(f"step_labels: {facts.get('shape')} rows are no solutions; give prompt-completion rows")
    if not all(row.get("verifier") for row in rows):
        raise ContractError("step_labels: a row names no verifier, so nothing says which continuations are right")
    if any(isinstance(row["completion"], list) and len(row["completion"]) > 1 for row in rows):
        raise ContractError("step_labels: a completion of several messages; steps are cut from one answer")
    if any(isinstance(row["prompt"], list) for row in rows) and not parents.one("policy").record.facts["chat_template"]:
        raise ContractError("step_labels: prompts are conversations, but the policy has no chat template; add one")
    _bench(rows)


def _bench(rows: Sequence[Row]) -> verifiers.Bench:
    """Who judges continuations; one that is unknown or not configured is refused."""
    return verifiers.Bench(row["verifier"] for row in rows)


@dataclass(frozen=True)
class Solution:
    """A solution and its steps; an unfinished one has no last step to judge."""

    row: Row
    steps: Steps
    finished: bool

    @cached_property
    def judged_by(self) -> str:
        """The same for solutions that the same verifier judges by the same reference."""
        return digest_value([self.row["verifier"], self.row.get("reference")])

    @property
    def rolled_out(self) -> range:
        """The depths, 0 being the prompt, from which continuations are sampled."""
        return range(len(self.steps.ends) + (not self.finished))

    def prefix(self, depth: int) -> Prefix:
        return self.judged_by, tuple(self.steps.prefix(depth))


def run(settings: StepLabelSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Cut, roll out, label, and write one row a solution."""
    from posttrain.generation.tokenizer import load_tokenizer

    policy, rows = parents.one("policy"), read_trajectories(parents.one("trajectories").path)
    bench, tokenizer = _bench(rows), load_tokenizer(policy.path)
    context, counts = int(policy.record.facts.get("context", 0)), Counter[str]()
    solutions = list(_solutions(rows, tokenizer, settings.separator, context, counts))
    owners = {solution.prefix(depth): solution for solution in solutions for depth in solution.rolled_out}
    counts["prefixes"] = sum(len(solution.rolled_out) for solution in solutions)
    counts["prefixes_shared"] = counts["prefixes"] - len(owners)
    shares = dict(zip(owners, _shares(settings, policy, tokenizer, owners, counts, progress), strict=True))
    labelled = list(zip(solutions, _labels(solutions, shares), strict=True))
    kept = [(solution, labels) for solution, labels in labelled if labels is not None]
    counts["unscorable"] += len(labelled) - len(kept)
    if not kept:
        raise DataError(f"step_labels: none of {len(rows)} solutions could be labelled: {dict(counts)}")
    made = [_row(solution, labels[1:]) for solution, labels in kept]
    write_trajectories(made, out)
    paths = [Reached(problem_of(solution.row), labels, solution.finished) for solution, labels in kept]
    facts = {"shape": "stepwise", "separator": settings.separator, "completer": policy.digest, **bench.facts()}
    return Work(
        facts={"rows": len(made), **facts},
        counts={"solutions": len(rows), "kept": len(made), **{name: counts[name] for name in _COUNTED}},
        metrics=reachability_metrics(paths, settings.seed),
        blocks=reachability_blocks(paths, settings.samples, settings.seed),
    )


def _solutions(
    rows: Sequence[Row], tokenizer: Any, separator: str, context: int, counts: Counter[str]
) -> Iterator[Solution]:
    """The rows that have a step to label. Of an unfinished one the last, broken step goes, and what fills the context.

    Args:
        counts: gains `steps`; `without_steps`, rows without a token or a separator; `truncated`; `too_long`, rows that
            leave the completer's context no room to go on from a step, left out; and `retokenised`, whose text has
            other tokens than were sampled: their prefixes are near the sampled ones, not the same.
    """
    for row in rows:
        text, finished = completion_text(row), row.get("finish") != "length"
        steps = split_steps(tokenizer, row["prompt"], text, separator)
        sampled = len(row.get("logprobs") or ()) - finished  # the last one is of EOS
        counts["retokenised"] += sampled > 0 and sampled != len(steps.ids) - steps.start
        counts["without_steps"] += separator not in text
        counts["truncated"] += not finished
        if context and finished and len(steps.prefix(max(len(steps.ends) - 1, 0))) >= context:
            counts["too_long"] += 1
            continue
        if not finished:
            whole = len(steps.ends) - (not text.endswith(separator))
            steps = steps.shortened(sum(not context or end < context for end in steps.ends[: max(whole, 0)]))
        if steps.ends:
            counts["steps"] += len(steps.ends)
            yield Solution(row, steps, finished)


def _shares(
    settings: StepLabelSettings,
    policy: Artifact,
    tokenizer: Any,
    owners: dict[Prefix, Solution],
    counts: Counter[str],
    progress: Progress,
) -> Iterator[float | None]:
    """The share of right continuations of each prefix, None where none could be scored."""
    sampled = sample_prompts(policy, [list(tokens) for _, tokens in owners], settings, progress, "prefix")
    verdicts = verifiers.verify_all(
        [
            _ask(solution.row, _text(tokenizer, tokens[solution.steps.start :], each))
            for ((_, tokens), solution), continuations in zip(owners.items(), sampled, strict=True)
            for each in continuations
        ]
    )
    for continuations in sampled:
        scores = [verdict.score for verdict in islice(verdicts, len(continuations))]
        scored = [score == 1 for score in scores if score is not None]
        counts["continuations_unscorable"] += len(scores) - len(scored)
        yield sum(scored) / len(scored) if scored else None


def _text(tokenizer: Any, begun: Sequence[int], continuation: Completion) -> str:
    """Decoded together: some tokenizers drop a space where a text begins."""
    more = continuation.tokens[:-1] if continuation.finish == "eos" else continuation.tokens
    return str(tokenizer.decode([*begun, *more], skip_special_tokens=True))


def _ask(row: Row, text: str) -> verifiers.Ask:
    return verifiers.Ask(text, row["verifier"], row.get("reference"), prompt_of(row))


def _labels(solutions: Sequence[Solution], shares: dict[Prefix, float | None]) -> Iterator[list[float] | None]:
    """Of each solution's prompt and of each step; None if one of them cannot be told."""
    ended = [_ask(solution.row, completion_text(solution.row)) for solution in solutions if solution.finished]
    verdicts = verifiers.verify_all(ended)
    for solution in solutions:
        labels = [shares[solution.prefix(depth)] for depth in solution.rolled_out]
        if solution.finished:
            score = next(verdicts).score
            labels.append(None if score is None else float(score == 1))
        known = [label for label in labels if label is not None]
        yield known if len(known) == len(labels) else None


def _row(solution: Solution, labels: list[float]) -> Row:
    columns = ("prompt", "problem_id", "verifier", "reference", "slice", "sampler", "finish")
    kept = {column: solution.row[column] for column in columns if column in solution.row}
    return {**kept, "completions": solution.steps.texts, "labels": labels, "source": "step_labels"}


STAGE = Stage(
    name="step_labels",
    output="labelled",
    makes=Kind.TRAJECTORIES,
    parents=PARENTS,
    settings=StepLabelSettings,
    run=run,
    check=check,
    image="sample",
)
