"""Running stages on tiny policies as a pipeline would, through `execute`, and looking at what they wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from posttrain.components.catalogue import load_stage
from safetensors.torch import load_file

from posttrain.artifacts.record import Record, read_record
from posttrain.stage import execute
from tests.tiny import tiny_policy

# Two test processes on two cores: threads inside each only wait for one another.
torch.set_num_threads(1)

Row = dict[str, Any]
Parent = Path | Sequence[Path]


def run(stage: str, out: Path, settings: dict[str, Any] | None = None, **parents: Parent) -> Path:
    """Run a stage and return where its artifact is."""
    paths = {role: [given] if isinstance(given, Path) else given for role, given in parents.items()}
    execute(load_stage(stage), paths, settings or {}, out)
    return out


def record(artifact: Path) -> Record:
    """The artifact's record, every file's digest verified."""
    return read_record(artifact)


def base(out: Path, architecture: str, **kwargs: Any) -> Path:
    """A tiny random policy, brought in by the stage base."""
    model = tiny_policy(out.with_name(f"{out.name}.model"), architecture, **kwargs)
    return run("base", out, {"uri": str(model)})


def prepared(out: Path, rows: Sequence[Row], kind: str, **settings: Any) -> Path:
    """Rows brought in by the stage prepare."""
    file = out.with_name(f"{out.name}.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return run("prepare", out, {"uri": str(file), "kind": kind, **settings})


def weights(policy: Path) -> dict[str, torch.Tensor]:
    """Every stored tensor by name."""
    return {name: tensor for file in sorted(policy.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def same_weights(first: Path, second: Path) -> bool:
    """Whether two policies store bit-identical tensors under the same names."""
    mine, other = weights(first), weights(second)
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


# A world that a tiny policy can be run on: sums, whose prompts and answers are a few tokens long.
SUMS = [{"prompt": f"{a}+{b}=", "verifier": "exact", "reference": str(a + b)} for a in range(4) for b in range(4)]
HELD_OUT = [{"prompt": f"{a}+{b}=", "verifier": "exact", "reference": str(a + b)} for a in (4, 5) for b in (4, 5)]
BRIEF = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1}


def chat(rows: Sequence[Row]) -> list[Row]:
    """The rows with their texts as messages."""
    roles = {"prompt": "user", "completion": "assistant"}
    return [
        {key: [{"role": roles[key], "content": value}] if key in roles else value for key, value in row.items()}
        for row in rows
    ]


def answered(rows: Sequence[Row]) -> list[Row]:
    """Problems as demonstrations of their reference answer."""
    return [{"prompt": row["prompt"], "completion": str(row["reference"])} for row in rows]
