"""Measures a policy: n samples a problem, verified, counted; unbiased pass@k and pass^k with intervals.

Estimators are those of Chen et al. (2107.03374, eq. 1); intervals resample problems, not samples. With an earlier
evaluation of the same problems as `before`, differences are paired and the support kept, gained and lost is shown.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pydantic import Field

from posttrain import verifiers
from posttrain.artifacts.evaluation import Measured, measured_on, read_evaluation, write_evaluation
from posttrain.artifacts.problems import Problem, prompt_text, read_problems
from posttrain.artifacts.record import Record
from posttrain.diagnosis.compare import Summary, compare, summarise
from posttrain.errors import ContractError
from posttrain.generation.decoding import Completion
from posttrain.generation.prompts import check_prompts_fit
from posttrain.generation.settings import SamplingSettings, sample_problems
from posttrain.progress import Progress
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind


class EvaluateSettings(SamplingSettings):
    """Decoding; change it and evaluations can no longer be compared."""

    samples: int = Field(default=16, gt=0, description="samples a problem, n; pass@k is estimated up to n")


PARENTS = {
    "policy": ParentSpec(Kind.POLICY, help="the policy to measure"),
    "problems": ParentSpec(Kind.PROBLEMS, help="held-out problems"),
    "before": ParentSpec(Kind.EVALUATION, required=False, help="an earlier evaluation of the same problems"),
}


def check(settings: EvaluateSettings, parents: Parents) -> None:
    """The problems must not be what the policy was trained on, must fit, and must be those measured before."""
    policy, problems, before = parents.one("policy"), parents.one("problems"), parents.maybe("before")
    trained = [name for name, status in contamination(policy.record, problems.digest).items() if status == "held out"]
    if trained:
        raise ContractError(f"evaluate: {trained[0]} trained on these very problems; measure on others")
    if before and measured_on(before.record) != problems.digest:
        raise ContractError(
            f"evaluate: 'before' measured other problems ({measured_on(before.record)[:12]} instead of "
            f"{problems.digest[:12]}); measure both on the same"
        )
    check_prompts_fit(policy, read_problems(problems.path), settings.max_new_tokens)


def contamination(policy: Record, held_out: str) -> dict[str, str]:
    """For every stage in the policy's lineage that learned from data: was the data kept apart from these problems?

    Returns:
        `stage.role` → "checked" (prepared against these problems), "unchecked", or "held out" (they are the data).
    """
    family = policy.family()
    status = {}
    for record in family.values():
        if record.trace is None:
            continue
        for ref in record.parents:
            if ref.kind in (Kind.PROBLEMS, Kind.TRAJECTORIES):
                status[f"{record.name}.{ref.role}"] = _status(family, family[ref.id], held_out)
    return status


def _status(family: dict[str, Record], record: Record, held_out: str) -> str:
    if record.digest == held_out:
        return "held out"
    if record.facts.get("held_out") == held_out:
        return "checked"
    # Rollouts and scored trajectories are as clean as the problems they answer.
    kinds = (Kind.PROBLEMS, Kind.TRAJECTORIES)
    sources = [family[ref.id] for ref in record.parents if ref.kind in kinds and ref.role != "held_out"]
    statuses = {_status(family, source, held_out) for source in sources}
    return "held out" if "held out" in statuses else "checked" if statuses == {"checked"} else "unchecked"


def run(settings: EvaluateSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Sample, verify, count, estimate."""
    policy, problems = parents.one("policy"), read_problems(parents.one("problems").path)
    sampled = sample_problems(policy, problems, settings, progress)
    measured = [measure(problem, completions) for problem, completions in zip(problems, sampled, strict=True)]
    write_evaluation(measured, out)
    summary = summarise(measured, seed=settings.seed)
    before = parents.maybe("before")
    comparison = compare(read_evaluation(before.path), measured, seed=settings.seed) if before else None
    unchecked = sum(s != "checked" for s in contamination(policy.record, parents.one("problems").digest).values())
    from posttrain.report.evaluation import evaluation_blocks

    return Work(
        facts={"policy": policy.digest, "policy_name": policy.record.name, "samples": settings.samples},
        counts={
            "problems": len(problems),
            "samples": sum(row.sampled for row in measured),
            "unscorable": sum(row.sampled - row.scored for row in measured),
            "truncated": sum(row.truncated for row in measured),
            "unchecked_training_data": unchecked,
        },
        metrics=metrics_of(summary),
        blocks=evaluation_blocks(policy.record.name, summary, comparison, examples(problems, sampled)),
    )


def metrics_of(summary: Summary) -> dict[str, float]:
    """The few numbers that runs are compared by; the page has the rest."""
    k = summary.k
    chosen = {"pass_at_1": summary.pass_at[1], f"pass_at_{k}": summary.pass_at[k], f"pass_hat_{k}": summary.pass_hat[k]}
    slices = {f"{name}/pass_at_1": part.pass_at[1] for name, part in summary.slices.items() if len(summary.slices) > 1}
    chosen |= {"truncated": summary.truncated, **slices}
    return {name: interval.estimate for name, interval in chosen.items() if interval.known}


def measure(problem: Problem, completions: list[Completion]) -> Measured:
    """One problem's row."""
    prompt = prompt_text(problem.prompt)
    verdicts = [verifiers.verify(c.text, problem.verifier, problem.reference, prompt) for c in completions]
    answers = Counter(verdict.answer for verdict in verdicts if verdict.answer is not None)
    right = {
        v.answer if v.answer is not None else c.text for v, c in zip(verdicts, completions, strict=True) if v.score == 1
    }
    return Measured(
        problem_id=problem.id,
        slice=problem.slice,
        scores=[verdict.score for verdict in verdicts],
        right_answers=sorted(right),
        answers=dict(sorted(answers.items())),
        tokens=[len(completion.tokens) for completion in completions],
        truncated=sum(completion.finish == "length" for completion in completions),
        logprobs=[sum(completion.logprobs) for completion in completions],
    )


def examples(
    problems: list[Problem], sampled: list[list[Completion]], most: int = 8
) -> list[tuple[str, str, float | None]]:
    """A few (prompt, first completion, score), spread evenly over the problems, for the page."""
    stride = max(1, len(problems) // most)
    chosen = list(zip(problems, sampled, strict=True))[::stride][:most]
    return [
        (
            prompt_text(problem.prompt),
            completions[0].text,
            verifiers.verify(
                completions[0].text, problem.verifier, problem.reference, prompt_text(problem.prompt)
            ).score,
        )
        for problem, completions in chosen
    ]


STAGE = Stage(
    name="evaluate",
    output="evaluation",
    makes=Kind.EVALUATION,
    parents=PARENTS,
    settings=EvaluateSettings,
    run=run,
    check=check,
)
