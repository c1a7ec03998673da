"""Measures a policy: n samples a problem, verified, counted; unbiased pass@k and pass^k with intervals.

Estimators are those of Chen et al. (2107.03374, eq. 1); intervals resample problems, not samples. Of earlier
evaluations of the same problems (`before`), the one of the nearest policy in the lineage is paired with it, and the
support kept, gained and lost is shown.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from posttrain.components.evaluate.measure import foreign_completions, kept_samples, measure_all
from pydantic import Field

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.evaluation import (
    EVALUATION_FILE,
    Conditions,
    comparable,
    read_evaluation,
    write_evaluation,
)
from posttrain.artifacts.lineage import evaluation_among, judged_against, made_from
from posttrain.artifacts.problems import Problem, prompt_text, read_problems
from posttrain.artifacts.record import Record
from posttrain.artifacts.samples import SAMPLES_FILE, read_samples, write_samples
from posttrain.diagnosis.compare import Summary, compare, summarise
from posttrain.diagnosis.roles import MeasuredRole, measured_role
from posttrain.errors import ContractError
from posttrain.generation.prompts import check_prompts_fit
from posttrain.generation.settings import SamplingSettings, sample_problems
from posttrain.progress import Progress
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind
from posttrain.verifiers import Bench


class EvaluateSettings(SamplingSettings):
    """Decoding; change it and evaluations can no longer be compared."""

    samples: int = Field(default=16, gt=0, description="samples a problem, n; pass@k is estimated up to n")
    keep_samples: int = Field(default=8, ge=0, description="completions a problem kept to look at and to score again")
    trained_on: bool = Field(
        default=False,
        description="measure problems that the policy was trained on: to choose among them, not to report",
    )


PARENTS = {
    "policy": ParentSpec(Kind.POLICY, help="the policy to measure"),
    "problems": ParentSpec(Kind.PROBLEMS, help="held-out problems"),
    "before": ParentSpec(Kind.EVALUATION, most=7, required=False, help="earlier evaluations of the same problems"),
}


def check(settings: EvaluateSettings, parents: Parents) -> None:
    """The problems must not be what the policy was trained on, must fit, and must be those measured before."""
    policy, problems = parents.one("policy"), parents.one("problems")
    trained = [name for name, status in contamination(policy.record, problems.digest).items() if status == "held out"]
    if trained and not settings.trained_on:
        raise ContractError(f"evaluate: {trained[0]} trained on these very problems; measure on others")
    bench = bench_of(read_problems(problems.path))
    if earlier := parents.all("before"):
        mine = Conditions.of(settings.name or "evaluate", problems.digest, bench.names, settings.model_dump())
        for before in earlier:
            comparable(Conditions.recorded(before.record), mine)
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


def bench_of(problems: list[Problem]) -> Bench:
    """The verifiers that decide."""
    return Bench(problem.verifier for problem in problems)


def run(settings: EvaluateSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Sample, verify, count, estimate; a policy that was measured before, in the same way, is not sampled again."""
    policy, problems = parents.one("policy"), read_problems(parents.one("problems").path)
    earlier, family = parents.all("before"), policy.record.family()
    before = evaluation_among(made_from(policy.record, family), earlier, policy.digest)
    reference = evaluation_among(judged_against(policy.record, family), earlier, policy.digest)
    bench = bench_of(problems)
    reused = next((found for found in earlier if _same(found.record, policy, settings)), None)
    if reused:
        for name in (EVALUATION_FILE, SAMPLES_FILE):
            if (reused.path / name).is_file():
                shutil.copyfile(reused.path / name, out / name)
    else:
        sample_and_write(settings, policy, problems, out, progress)
    measured = read_evaluation(out)
    summary = summarise(measured, seed=settings.seed)
    comparison = compare(read_evaluation(before.path), measured, seed=settings.seed) if before else None
    judged = compare(read_evaluation(reference.path), measured, seed=settings.seed) if reference else None
    role = measured_role(judged, policy.record.role) if judged else None
    unchecked = sum(s != "checked" for s in contamination(policy.record, parents.one("problems").digest).values())
    told = bench.facts()
    if reused:  # those that judged it then
        told = {name: str(reused.record.facts.get(name, "")) for name in told}
    from posttrain.report.evaluation import evaluation_blocks

    return Work(
        facts={
            "policy": policy.digest,
            "policy_name": policy.record.name,
            "samples": settings.samples,
            **told,
            **(_role_facts(role) if role else {}),
        },
        counts={
            "problems": len(problems),
            "samples": int(measured.sampled_M.sum()),
            "reused": int(measured.sampled_M.sum()) if reused else 0,
            "unscorable": int((measured.sampled_M - measured.scored_M).sum()),
            "truncated": int(measured.truncated_M.sum()),
            "unchecked_training_data": unchecked,
        },
        metrics=metrics_of(summary),
        blocks=evaluation_blocks(policy.record.name, summary, comparison, examples(out), role),
    )


def _same(before: Record, policy: Artifact, settings: EvaluateSettings) -> bool:
    """Whether the earlier evaluation drew the very samples that this one would."""
    seeds = before.parameters["seed"], before.parameters["keep_samples"]
    return before.facts["policy"] == policy.digest and seeds == (settings.seed, settings.keep_samples)


def sample_and_write(
    settings: EvaluateSettings, policy: Artifact, problems: list[Problem], out: Path, progress: Progress
) -> None:
    """The evaluation's files."""
    sampled = sample_problems(policy, problems, settings, progress)
    foreign = list(foreign_completions(problems, sampled, settings.seed))
    rows = measure_all(problems, sampled, foreign)
    write_evaluation(rows, out)
    write_samples(kept_samples(problems, sampled, rows, settings.keep_samples), out)


def _role_facts(role: MeasuredRole) -> dict[str, str | int | float]:
    """What the policy's last stage turned out to do, beside what it was meant to."""
    return {
        "role_meant": role.intended or "",
        "role_measured": " + ".join(role.roles) or "none",
        "role_undecided": " + ".join(role.undecided),
        "attrition": role.attrition.estimate,
        "role_verdict": role.verdict,
    }


def metrics_of(summary: Summary) -> dict[str, float]:
    """The few numbers that runs are compared by; the page has the rest."""
    k = summary.k
    chosen = {"pass_at_1": summary.pass_at[1], f"pass_at_{k}": summary.pass_at[k], f"pass_hat_{k}": summary.pass_hat[k]}
    slices = {f"{name}/pass_at_1": part.pass_at[1] for name, part in summary.slices.items() if len(summary.slices) > 1}
    chosen |= {"truncated": summary.truncated, **slices}
    return {name: interval.estimate for name, interval in chosen.items() if interval.known}


def examples(evaluation: Path, most: int = 8) -> list[tuple[str, str, float | None]]:
    """A few (prompt, first completion, score), spread evenly over the problems, for the page."""
    first = list({row.problem_id: row for row in reversed(read_samples(evaluation))}.values())[::-1]
    stride = max(1, len(first) // most)
    return [(prompt_text(row.prompt), row.completion, row.score) for row in first[::stride][:most]]


STAGE = Stage(
    name="evaluate",
    output="evaluation",
    makes=Kind.EVALUATION,
    parents=PARENTS,
    settings=EvaluateSettings,
    run=run,
    check=check,
    image="sample",
)
