"""Samples a policy: n trajectories a problem, each with its sampler's digest and token log-probabilities.

Kept and trained on later, these are the policy's own samples but off-policy: a fixed batch (2604.07941 v1, 4.3).
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from posttrain.artifacts.problems import Problem, read_problems
from posttrain.artifacts.rows import Row
from posttrain.artifacts.trajectories import write_trajectories
from posttrain.generation.decoding import Completion
from posttrain.generation.prompts import check_prompts_fit
from posttrain.generation.settings import SamplingSettings, sample_problems
from posttrain.progress import Progress
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind


class RolloutSettings(SamplingSettings):
    """Decoding, and the problems to sample on."""

    slices: list[str] = Field(default_factory=list, description="only problems of these slices; empty = all")
    limit: int = Field(default=0, ge=0, description="only the first so many problems; 0 = all")


PARENTS = {
    "policy": ParentSpec(Kind.POLICY, help="the sampler"),
    "problems": ParentSpec(Kind.PROBLEMS, help="what to sample on"),
}


def check(settings: RolloutSettings, parents: Parents) -> None:
    """Prompts must leave room for the completion."""
    check_prompts_fit(parents.one("policy"), chosen(settings, parents), settings.max_new_tokens)


def chosen(settings: RolloutSettings, parents: Parents) -> list[Problem]:
    """The problems that these settings select."""
    return read_problems(parents.one("problems").path, settings.slices)[: settings.limit or None]


def run(settings: RolloutSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Sample and write one row a trajectory."""
    sampler, problems = parents.one("policy"), chosen(settings, parents)
    sampled = sample_problems(sampler, problems, settings, progress)
    rows = [
        row_of(problem, completion, sampler.digest)
        for problem, completions in zip(problems, sampled, strict=True)
        for completion in completions
    ]
    write_trajectories(rows, out)
    truncated = sum(row["finish"] == "length" for row in rows)
    return Work(
        facts={"rows": len(rows), "shape": "prompt-completion", "sampler": sampler.digest},
        counts={"trajectories": len(rows), "truncated": truncated},
        metrics={"truncated_share": truncated / max(len(rows), 1)},
    )


def row_of(problem: Problem, completion: Completion, sampler: str, source: str = "rollout") -> Row:
    """A completion as a row of trajectories."""
    conversational = isinstance(problem.prompt, list)
    return {
        "prompt": problem.prompt,
        "completion": [{"role": "assistant", "content": completion.text}] if conversational else completion.text,
        "problem_id": problem.id,
        "verifier": problem.verifier,
        "reference": problem.reference,
        "slice": problem.slice,
        "sampler": sampler,
        "source": source,
        "logprobs": completion.logprobs,
        "finish": completion.finish,
    }


STAGE = Stage(
    name="rollout",
    output="trajectories",
    makes=Kind.TRAJECTORIES,
    parents=PARENTS,
    settings=RolloutSettings,
    run=run,
    check=check,
    image="sample",
    measures=False,
)
