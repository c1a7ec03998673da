"""Labels the steps of solutions by rollouts from where each step ends (Math-Shepherd, 2312.08935).

1. A solution is cut after each `separator`; from the prompt and from the end of every step but a finished solution's
   last, the completer samples continuations, and the problem's verifier judges them.
2. A step's label is the share of right ones (soft estimation, eq. 4). The hard label (eq. 3) is whether any was right,
   so label > 0: trainers round for themselves. A finished solution's last step is labelled by its own verdict.
3. Prefixes are prefixes of the solution's tokens, never text tokenised anew (`posttrain.generation.steps`). Prefixes
   that solutions of one problem share are rolled out once.
4. The same rollouts say from where a right answer can still be reached: `reachability.py` measures that.

A label is about the completer: a step from which another policy would go on rightly may be a dead end to this one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.components.step_labels.reachability import Path as Reached
from posttrain.components.step_labels.reachability import reachability_blocks, reachability_metrics
from pydantic import Field

from posttrain import verifiers
from posttrain.artifacts.rows import Row
from posttrain.artifacts.trajectories import completion_text, prompt_of, read_trajectories, write_trajectories
from posttrain.errors import ConfigError, ContractError, DataError
from posttrain.generation.decoding import Completion, Decoding
from posttrain.generation.settings import SamplingSettings
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

Prefix = tuple[str, tuple[int, ...]]  # a problem, and the tokens of prompt and steps


class StepLabelSettings(SamplingSettings):
    """Where steps end, and how continuations are sampled."""

    separator: str = Field(default="\n", min_length=1, description="what ends a step")
    samples: int = Field(default=8, gt=0, description="continuations of each prefix")
    max_new_tokens: int = Field(default=512, gt=0, description="longest continuation, in tokens")


PARENTS = {
    "policy": ParentSpec(Kind.POLICY, help="the completer, which goes on from each step"),
    "trajectories": ParentSpec(Kind.TRAJECTORIES, help="solutions with verifier and reference, such as rollouts"),
}


def check_settings(settings: StepLabelSettings) -> None:
    """Only Transformers goes on from tokens."""
    if settings.backend != "transformers":
        raise ConfigError(
            f"step_labels: backend={settings.backend} takes prompts, not the tokens of a prefix; use "
            "backend=transformers"
        )


def check(settings: StepLabelSettings, parents: Parents) -> None:
    """Rows must be single solutions that name their verifier, and the completer must read their prompts."""
    rows, facts = read_trajectories(parents.one("trajectories").path), parents.one("trajectories").record.facts
    if facts.get("shape") != "prompt-completion":
        raise ContractError(f"step_labels: {facts.get('shape')} rows are no solutions; give prompt-completion rows")
    if not all(row.get("verifier") for row in rows):
        raise ContractError("step_labels: a row names no verifier, so nothing says which continuations are right")
    if any(isinstance(row["completion"], list) and len(row["completion"]) > 1 for row in rows):
        raise ContractError("step_labels: a completion of several messages; steps are cut from one answer")
    if any(isinstance(row["prompt"], list) for row in rows) and not parents.one("policy").record.facts["chat_template"]:
        raise ContractError("step_labels: prompts are conversations, but the policy has no chat template; add one")


@dataclass(frozen=True)
class Solution:
    """A solution and its steps; an unfinished one has no last step to judge."""

    row: Row
    problem: str
    steps: Steps
    finished: bool

    @property
    def rolled_out(self) -> range:
        """The depths, 0 being the prompt, from which continuations are sampled."""
        return range(len(self.steps.ends) + (not self.finished))

    def prefix(self, depth: int) -> Prefix:
        return self.problem, tuple(self.steps.prefix(depth))


def run(settings: StepLabelSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Cut, roll out, label, and write one row a solution."""
    from posttrain.generation.transformers import load_policy

    policy, rows = parents.one("policy"), read_trajectories(parents.one("trajectories").path)
    model, tokenizer = load_policy(policy.path)
    context, counts = int(policy.record.facts.get("context", 0)), Counter[str]()
    solutions = list(_solutions(rows, tokenizer, settings.separator, context, counts))
    owners = {solution.prefix(depth): solution for solution in solutions for depth in solution.rolled_out}
    counts["prefixes"] = sum(len(solution.rolled_out) for solution in solutions)
    counts["prefixes_shared"] = counts["prefixes"] - len(owners)
    shares = dict(zip(owners, _shares(settings, model, tokenizer, owners, counts, progress), strict=True))
    labelled = [(solution, _labels(solution, shares)) for solution in solutions]
    kept = [(solution, labels) for solution, labels in labelled if labels is not None]
    counts["unscorable"] += len(labelled) - len(kept)
    if not kept:
        raise DataError(f"step_labels: none of {len(rows)} solutions could be labelled: {dict(counts)}")
    made = [_row(solution, labels[1:]) for solution, labels in kept]
    write_trajectories(made, out)
    paths = [Reached(solution.problem, labels, solution.finished) for solution, labels in kept]
    return Work(
        facts={"rows": len(made), "shape": "stepwise", "separator": settings.separator, "completer": policy.digest},
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
            yield Solution(row, str(row.get("problem_id") or prompt_of(row)), steps, finished)


def _shares(
    settings: StepLabelSettings,
    model: Any,
    tokenizer: Any,
    owners: dict[Prefix, Solution],
    counts: Counter[str],
    progress: Progress,
) -> Iterator[float | None]:
    """The share of right continuations of each prefix, None where none could be scored."""
    from posttrain.generation.transformers import sample_tokens

    sampled = sample_tokens(
        model,
        tokenizer,
        [list(tokens) for _, tokens in owners],
        Decoding(**settings.model_dump(include=set(Decoding.model_fields))),
        batch_rows=settings.batch_rows,
        on_progress=lambda done, total: progress.update(done, total, "prefix"),
    )
    for ((_, tokens), solution), continuations in zip(owners.items(), sampled, strict=True):
        begun = tokens[solution.steps.start :]
        asks = [_ask(solution.row, _text(tokenizer, begun, each)) for each in continuations]
        scores = [verdict.score for verdict in verifiers.verify_all(asks)]
        scored = [score == 1 for score in scores if score is not None]
        counts["continuations_unscorable"] += len(scores) - len(scored)
        yield sum(scored) / len(scored) if scored else None


def _text(tokenizer: Any, begun: Sequence[int], continuation: Completion) -> str:
    """Decoded together: some tokenizers drop a space where a text begins."""
    more = continuation.tokens[:-1] if continuation.finish == "eos" else continuation.tokens
    return str(tokenizer.decode([*begun, *more], skip_special_tokens=True))


def _ask(row: Row, text: str) -> verifiers.Ask:
    return verifiers.Ask(text, row["verifier"], row.get("reference"), prompt_of(row))


def _labels(solution: Solution, shares: dict[Prefix, float | None]) -> list[float] | None:
    """Of the prompt and of each step; None if one of them cannot be told."""
    labels = [shares[solution.prefix(depth)] for depth in solution.rolled_out]
    if solution.finished:
        score = verifiers.verify(*_ask(solution.row, completion_text(solution.row))).score
        labels.append(None if score is None else float(score == 1))
    known = [label for label in labels if label is not None]
    return known if len(known) == len(labels) else None


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
    check_settings=check_settings,
    check=check,
)
