"""Artifacts for tests, made by the real stages: those with a model get its samples made up."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from posttrain.components.catalogue import load_stage

from posttrain.artifacts.artifact import Artifact, open_artifact
from posttrain.artifacts.evaluation import Measured, write_evaluation
from posttrain.artifacts.trajectories import write_trajectories
from posttrain.errors import PosttrainError
from posttrain.stage import Work, execute
from posttrain.taxonomy import Kind

Row = dict[str, Any]


def problem(number: int, **changes: Any) -> Row:
    return {"prompt": f"{number}+1=", "verifier": "exact", "reference": str(number + 1), **changes}


def demo(number: int, **changes: Any) -> Row:
    return {"prompt": f"{number}+1=", "completion": str(number + 1), **changes}


def jsonl(file: Path, rows: Iterable[Any]) -> Path:
    """Rows as JSONL; a string stands for a line as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return file


def artifact(path: Path, kind: Kind) -> Artifact:
    return open_artifact(path, kind)


def prepared(
    out: Path,
    rows: Iterable[Any],
    kind: str = "problems",
    parents: Mapping[str, Sequence[Path]] | None = None,
    **settings: Any,
) -> Path:
    """An artifact of problems or trajectories."""
    uri = str(jsonl(out.with_suffix(".jsonl"), rows))
    execute(load_stage("prepare"), parents or {}, {"uri": uri, "kind": kind, **settings}, out)
    return out


def based(out: Path, model: Path) -> Path:
    """A policy artifact."""
    execute(load_stage("base"), {}, {"uri": str(model), "name": out.name}, out)
    return out


def evaluated(
    out: Path, policy: Path, problems: Path, right: Sequence[int], slices: Sequence[str] = ("all",), **settings: Any
) -> Path:
    """An evaluation; `right` are the correct of four samples, a problem each; the slices take turns."""

    def run(chosen: Any, parents: Any, directory: Path, progress: Any) -> Work:
        rows = [_measured(number, count, slices[number % len(slices)]) for number, count in enumerate(right)]
        write_evaluation(rows, directory)
        sampler = parents.one("policy")
        return Work(facts={"policy": sampler.digest, "policy_name": sampler.record.name, "samples": 4})

    stage = replace(load_stage("evaluate"), run=run, check=lambda settings, parents: None)
    execute(stage, {"policy": [policy], "problems": [problems]}, {"samples": 4, **settings}, out)
    return out


def _measured(number: int, right: int, part: str) -> Measured:
    return Measured(
        problem_id=f"p{number}",
        slice=part,
        scores=[1.0] * right + [0.0] * (4 - right),
        answers=["yes", "no"],
        answer_counts=[right, 4 - right],
        answer_right=[right > 0, False],
        tokens=[3] * 4,
        truncated=0,
        logprobs=[-1.5] * 4,
    )


def rolled_out(out: Path, policy: Path, problems: Path, rows: Iterable[Row]) -> Path:
    """Trajectories that the policy sampled."""

    def run(chosen: Any, parents: Any, directory: Path, progress: Any) -> Work:
        sampler = parents.one("policy").digest
        write_trajectories([{"sampler": sampler, "source": "rollout", **row} for row in rows], directory)
        return Work(facts={"shape": "prompt-completion", "sampler": sampler})

    stage = replace(load_stage("rollout"), run=run, check=lambda settings, parents: None)
    execute(stage, {"policy": [policy], "problems": [problems]}, {}, out)
    return out


def refused(
    stage: str,
    parents: Mapping[str, Sequence[Path]],
    settings: Mapping[str, Any],
    out: Path,
    error: type[PosttrainError],
    *mentions: str,
) -> str:
    """The one line with which a stage refuses; it names everything of `mentions` and leaves nothing behind."""
    out.parent.mkdir(parents=True, exist_ok=True)
    before = set(out.parent.rglob("*"))
    with pytest.raises(error) as raised:
        execute(load_stage(stage), parents, settings, out)
    line = str(raised.value)
    assert "\n" not in line
    for mention in mentions:
        assert mention in line
    assert set(out.parent.rglob("*")) == before
    return line
