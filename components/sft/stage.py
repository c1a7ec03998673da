"""Supervised fine-tuning on supplied trajectories: maximise Σ log π(completion | prompt) over a fixed batch.

What this is, and is not:
1. Off-policy whoever sampled the rows; own samples, filtered and kept, count as self-generated, not on-policy.
2. `trl.SFTTrainer` unchanged: the same data, seed and settings give bit-identical weights to a bare TRL script.
3. `method=dft` weights each token by its own probability (2508.05629), a gentler update that reshapes.
4. Rows longer than `max_length` are truncated by TRL; here they are counted first, and an error above a share.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from posttrain.artifacts import provenance
from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import renders, size_of
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ContractError
from posttrain.progress import Progress
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind
from posttrain.training.arguments import check_trainer_args
from posttrain.training.settings import TrainSettings

_SHAPES = {"prompt-completion": ("prompt", "completion"), "messages": ("messages",), "text": ("text",)}


class SFTSettings(TrainSettings):
    """Supervised fine-tuning."""

    learning_rate: float = Field(default=2e-5, gt=0, description="peak learning rate")
    method: Literal["sft", "dft"] = Field(default="sft", description="negative log-likelihood, or dynamic fine-tuning")
    max_length: int = Field(default=1024, gt=0, description="longest sequence in tokens")
    packing: bool = Field(default=False, description="pack short rows into one sequence")
    max_truncated: float = Field(default=0.05, ge=0, le=1, description="largest share of rows cut at max_length")


PARENTS = {
    "init": ParentSpec(Kind.POLICY, help="the policy to start from"),
    "data": ParentSpec(Kind.TRAJECTORIES, help="prompt-completion, messages or text rows"),
}


def check(settings: SFTSettings, parents: Parents) -> None:
    """The rows must have a supervised shape and suit the policy's template."""
    init, data = parents.one("init"), parents.one("data")
    check_rows(data.record.facts.get("shape"), init.record.facts.get("chat_template"), read_trajectories(data.path))


def check_rows(shape: Any, chat_template: Any, rows: list[dict[str, Any]]) -> None:
    """Rows that SFT can learn from.

    Raises:
        ContractError: another shape, no rows, or messages for a policy without chat template.
    """
    if shape not in _SHAPES:
        raise ContractError(f"sft: data has shape {shape!r}; it learns from {', '.join(_SHAPES)}")
    if not rows:
        raise ContractError("sft: data has no rows")
    renders(chat_template, rows[0][_SHAPES[shape][-1]], "sft")


def run(settings: SFTSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Train and write the policy."""
    loss = "nll" if settings.method == "sft" else "dft"
    owned = {"loss_type": loss, "max_length": settings.max_length, "packing": settings.packing}
    return supervised(settings, parents.one("init"), parents.one("data"), owned, settings.max_truncated, out, progress)


def supervised(
    settings: TrainSettings,
    init: Artifact,
    data: Artifact,
    owned: dict[str, Any],
    max_truncated: float,
    out: Path,
    progress: Progress,
) -> Work:
    """Supervised learning on a fixed batch, also for sequence-level distillation.

    Args:
        owned: arguments of `trl.SFTConfig` that the stage derives from its settings.
        max_truncated: the largest share of rows that may be cut at `max_length`.
    """
    from trl import SFTConfig, SFTTrainer

    from posttrain.generation.tokenizer import load_tokenizer
    from posttrain.training.arguments import trainer_config
    from posttrain.training.run import train, trainer_scratch
    from posttrain.training.truncation import count_truncated

    trajectories = read_trajectories(data.path)
    columns = _SHAPES[str(data.record.facts["shape"])]
    rows = [{column: row[column] for column in columns} for row in trajectories]
    with trainer_scratch() as scratch:
        config = trainer_config(SFTConfig, settings, scratch, **owned)
        context = int(init.record.facts.get("context", 0))
        truncated = count_truncated(rows, load_tokenizer(init.path), config.max_length, context, max_truncated)
        _, work = train(SFTTrainer, config, to_dataset(rows, columns), settings, init, out, progress)
    work.trace = provenance.offline((row.get("sampler") for row in trajectories), init.digest)
    # TRL ends every completion with EOS, also one that its sampler never ended.
    unfinished = sum(row.get("finish") == "length" for row in trajectories)
    work.counts = {"rows": len(rows), "truncated": truncated, "unfinished": unfinished}
    return work


def to_dataset(rows: list[dict[str, Any]], columns: Sequence[str]) -> Any:
    """The rows as a `datasets.Dataset`, in order."""
    from datasets import Dataset

    return Dataset.from_dict({column: [row[column] for row in rows] for column in columns})


STAGE = Stage(
    name="sft",
    output="policy",
    makes=Kind.POLICY,
    parents=PARENTS,
    settings=SFTSettings,
    run=run,
    check_settings=lambda settings: check_trainer_args("SFTConfig", settings),
    check=check,
    method=lambda settings: settings.method,
    size=lambda parents: 2 * size_of(parents.one("init")),
)
