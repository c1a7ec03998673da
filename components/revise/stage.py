"""Answers that a policy criticised and revised itself: Constitutional AI's first half (2212.08073, section 3.1).

1. The policy is shown a prompt, an answer and a principle, and asked for a critique.
2. It is shown all of that with its critique, and asked for a better answer. `rounds` repeat both on the revision.
3. A row is the prompt with the last revision, as if it had been the first answer: neither the critique nor the request
   is learned. As pairs, the revision is preferred to the first answer, whoever gave that.

Without an outside signal models often revise right answers into wrong ones (2310.01798), so where rows have verifiers
both answers are scored, and the change is reported with an interval over problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from posttrain.components.revise.change import change_metrics
from posttrain.components.revise.requests import (
    CRITIQUE,
    FIELD,
    FIELDS,
    REVISION,
    REVISION_AT_ONCE,
    asked,
    shown,
    text_of,
)
from posttrain.components.verify.stage import score
from pydantic import Field

from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.digests import digest_value
from posttrain.artifacts.problems import Problem
from posttrain.artifacts.rows import Row
from posttrain.artifacts.trajectories import completion_text, read_trajectories, write_trajectories
from posttrain.errors import ConfigError, ContractError, DataError, nearest
from posttrain.generation.decoding import Completion
from posttrain.generation.prompts import check_prompts_fit
from posttrain.generation.settings import SamplingSettings, sample_problems
from posttrain.progress import Progress
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind
from posttrain.verifiers import Bench

_KEPT = ("prompt", "problem_id", "verifier", "reference", "slice")


class ReviseSettings(SamplingSettings):
    """What is asked, and what becomes of the answers."""

    samples: int = Field(default=1, gt=0, description="revisions of each answer, drawn apart")
    output: Literal["revisions", "pairs"] = Field(
        default="revisions", description="the revisions, or pairs: the revision chosen, the first answer rejected"
    )
    keep_better: bool = Field(default=False, description="keep only rows whose verified score did not fall")
    principles: list[str] = Field(
        default_factory=list, description="one is drawn a row and round; empty = a general one"
    )
    rounds: int = Field(default=1, gt=0, description="how often an answer is criticised and revised")
    criticise: bool = Field(default=True, description="ask for a critique first; without, for the revision at once")
    critique: str = Field(
        default="", description="how a critique is asked for, with {prompt}, {answer}, {principle}; empty = plainly"
    )
    revision: str = Field(
        default="", description="how a revision is asked for, with {critique} as well; empty = plainly"
    )

    @property
    def requests(self) -> tuple[str, str]:
        """For a critique, empty if none is asked for, and for a revision."""
        if self.criticise:
            return self.critique or CRITIQUE, self.revision or REVISION
        return "", self.revision or REVISION_AT_ONCE


PARENTS = {
    "policy": ParentSpec(Kind.POLICY, help="who criticises and revises"),
    "trajectories": ParentSpec(Kind.TRAJECTORIES, help="the first answers, as rollout makes"),
}


def check_settings(settings: ReviseSettings) -> None:
    """Every request must show what it asks about."""
    if settings.critique and not settings.criticise:
        raise ConfigError("revise: critique says how to ask for one, but criticise=False; drop one of them")
    requests = dict(zip(("critique", "revision"), settings.requests, strict=True))
    shows = {name: set(FIELD.findall(request)) for name, request in requests.items() if request}
    for name, fields in shows.items():
        for field in sorted(fields - set(FIELDS)):
            raise ConfigError(f"revise: {name} has the unknown field {{{field}}}{nearest(field, FIELDS)}")
        if "answer" not in fields:
            raise ConfigError(f"revise: {name} does not show {{answer}}; add the field")
    if "critique" in shows.get("critique", ()):
        raise ConfigError("revise: critique shows {critique}, which is not there yet; leave the field out")
    if settings.criticise != ("critique" in shows["revision"]):
        remedy = "add the field" if settings.criticise else "leave the field out: criticise=False"
        raise ConfigError(f"revise: revision and {{critique}} do not agree; {remedy}")
    if settings.principles and not any("principle" in fields for fields in shows.values()):
        raise ConfigError("revise: principles are given, but no request shows {principle}; add the field")


def check(settings: ReviseSettings, parents: Parents) -> None:
    """The answers must be single ones, must be scorable if the scores decide, and must fit with what is asked."""
    source = parents.one("trajectories")
    shape = source.record.facts.get("shape")
    if shape != "prompt-completion":
        raise ContractError(f"revise: trajectories have shape {shape!r}; give prompt-completion rows")
    rows = read_trajectories(source.path)
    if any(isinstance(row["completion"], list) and len(row["completion"]) > 1 for row in rows):
        raise ContractError(
            "revise: an answer of several messages; the revision would take the place of the last alone"
        )
    without = next((number for number, row in enumerate(rows, start=1) if not row.get("verifier")), None)
    if settings.keep_better and without:
        raise ContractError(f"revise: keep_better compares verified scores, but row {without} names no verifier")
    Bench(row["verifier"] for row in rows if row.get("verifier"))
    _check_room(settings, parents.one("policy"), rows)


def _check_room(settings: ReviseSettings, policy: Artifact, rows: Sequence[Row]) -> None:
    """What is asked must leave room for what comes of it: in the first round, and with revisions for first answers."""
    (critique, revision), room = settings.requests, settings.max_new_tokens
    longest = sorted(settings.principles, key=len)[-1:]  # any may be drawn
    for again in range(min(settings.rounds, 2)):
        fields = [each | ({"answer": ""} if again else {}) for each in shown(rows, longest, settings.seed, 0)]
        if critique:
            check_prompts_fit(policy, asked(critique, fields), room * (1 + again))
        check_prompts_fit(policy, asked(revision, fields), room * (1 + again + bool(critique)))


def run(settings: ReviseSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Criticise, revise, score, keep, write."""
    policy, source = parents.one("policy"), parents.one("trajectories").path
    first = [dict(row) for row in read_trajectories(source) for _ in range(settings.samples)]
    revisions, critiques = _revised(settings, policy, first, progress)
    rows = [_row(row, text, policy.digest) for row, text in zip(first, revisions, strict=True)]
    judged = [row for row in (*first, *rows) if row.get("verifier")]
    bench = score(judged, str(source), progress)
    fates = [_fate(settings, *pair) for pair in zip(first, rows, strict=True)]
    kept = [pair for pair, fate in zip(zip(first, rows, strict=True), fates, strict=True) if fate == "kept"]
    if not kept:
        told = ", ".join(f"{fates.count(fate)} {fate}" for fate in sorted(set(fates)))
        raise DataError(
            f"revise: none of {len(rows)} revisions is kept ({told}); look at the critiques, or sample more"
        )
    pairs = settings.output == "pairs"
    write_trajectories([_pair(*pair) if pairs else pair[1] for pair in kept], out)
    return Work(
        facts={
            "rows": len(kept),
            "shape": "preference" if pairs else "prompt-completion",
            "sampler": policy.digest,
            **(bench.facts() if judged else {}),
        },
        counts={
            "answers": len(first),
            "truncated": sum(row["finish"] == "length" for row in rows),
            "unscorable": sum(row["reward"] is None for row in judged),
            **{fate: fates.count(fate) for fate in ("kept", "empty", "unchanged", "worse", "undecided")},
        },
        metrics=change_metrics(first, rows, settings.seed),
        blocks=_examples(first, critiques, rows),
    )


def _revised(
    settings: ReviseSettings, policy: Artifact, first: Sequence[Row], progress: Progress
) -> tuple[list[Completion], list[str]]:
    """The last revision of each answer, and the critique that led to it."""
    critique, revision = settings.requests
    current, critiques, revisions = [dict(row) for row in first], [""] * len(first), list[Completion]()
    for number in range(settings.rounds):
        fields = shown(current, settings.principles, settings.seed, number)
        if critique:
            drawn = _drawn(settings, policy, asked(critique, fields), 2 * number, progress)
            critiques = [each.text.strip() for each in drawn]
        fields = [{**each, "critique": text} for each, text in zip(fields, critiques, strict=True)]
        revisions = _drawn(settings, policy, asked(revision, fields), 2 * number + 1, progress)
        for row, each in zip(current, revisions, strict=True):
            row["completion"] = _like(row["completion"], each.text.strip())
    return revisions, critiques


def _drawn(
    settings: ReviseSettings, policy: Artifact, requests: Sequence[Problem], turn: int, progress: Progress
) -> list[Completion]:
    """One completion of each request; every turn has draws of its own."""
    seed = int(digest_value([settings.seed, turn])[:8], 16)
    alone = settings.model_copy(update={"samples": 1, "seed": seed})
    return [drawn[0] for drawn in sample_problems(policy, requests, alone, progress)]


def _like(completion: Any, text: str) -> Any:
    return text if isinstance(completion, str) else [{"role": "assistant", "content": text}]


def _row(first: Row, revision: Completion, sampler: str) -> Row:
    """A revision as a trajectory. Its log-probabilities are left out: they are of another prompt than the row's."""
    return {name: first[name] for name in _KEPT if name in first} | {
        "completion": _like(first["completion"], revision.text.strip()),
        "sampler": sampler,
        "source": "revise",
        "finish": revision.finish,
        "reward": None,
    }


def _fate(settings: ReviseSettings, first: Row, row: Row) -> str:
    """What becomes of a revision: `kept`, or why not."""
    if not completion_text(row):
        return "empty"
    if settings.output == "pairs" and completion_text(row) == completion_text(first).strip():
        return "unchanged"
    if settings.keep_better:
        if None in (first["reward"], row["reward"]):
            return "undecided"
        if row["reward"] < first["reward"]:
            return "worse"
    return "kept"


def _pair(first: Row, row: Row) -> Row:
    """A revision and its first answer as a preference row."""
    pair = {name: row[name] for name in (*_KEPT, "source") if name in row}
    for side, answer in (("chosen", row), ("rejected", first)):
        pair |= {
            side: answer["completion"],
            f"{side}_sampler": answer.get("sampler"),
            f"{side}_reward": answer.get("reward"),
        }
    return pair


def _examples(first: Sequence[Row], critiques: Sequence[str], rows: Sequence[Row], most: int = 8) -> list[Any]:
    """A few answers with their critique and revision, spread over the rows, for the page."""
    from posttrain.report.page import Sample, Samples, Section

    chosen = list(zip(first, critiques, rows, strict=True))[:: max(1, len(rows) // most)][:most]
    samples = [
        Sample(
            f"{text_of(before['prompt'])}\n\nFirst answer: {completion_text(before)}\n\nCritique: {critique}",
            completion_text(after),
            after["reward"],
        )
        for before, critique, after in chosen
    ]
    return [Section("Examples", [Samples(samples, "A few first answers, their critiques, and what came of them.")])]


STAGE = Stage(
    name="revise",
    output="revised",
    makes=Kind.TRAJECTORIES,
    parents=PARENTS,
    settings=ReviseSettings,
    run=run,
    check=check,
    check_settings=check_settings,
    image="sample",
)
