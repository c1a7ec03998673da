"""Supervised learning on a fixed batch: what fine-tuning and sequence-level distillation share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.artifacts import provenance
from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import renders
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ContractError
from posttrain.progress import Progress
from posttrain.stage import Work
from posttrain.training.settings import TrainSettings

# Shapes of rows that can be imitated, with their columns.
SHAPES = {"prompt-completion": ("prompt", "completion"), "messages": ("messages",), "text": ("text",)}


def check_rows(shape: Any, chat_template: Any, rows: list[dict[str, Any]]) -> None:
    """Rows that SFT can learn from.

    Raises:
        ContractError: another shape, no rows, or messages for a policy without chat template.
    """
    if shape not in SHAPES:
        raise ContractError(f"sft: data has shape {shape!r}; it learns from {', '.join(SHAPES)}")
    if not rows:
        raise ContractError("sft: data has no rows")
    renders(chat_template, rows[0][SHAPES[shape][-1]], "sft")


def supervised(
    settings: TrainSettings,
    init: Artifact,
    data: Artifact,
    owned: dict[str, Any],
    max_truncated: float,
    out: Path,
    progress: Progress,
    mixins: Sequence[type] = (),
    **more: Any,
) -> Work:
    """Supervised learning on a fixed batch, also for sequence-level distillation.

    Args:
        owned: arguments of `trl.SFTConfig` that the stage derives from its settings.
        max_truncated: the largest share of rows that may be cut at `max_length`.
        mixins: of `trl.SFTTrainer`, and `more` their arguments.
    """
    from trl import SFTConfig, SFTTrainer

    from posttrain.generation.tokenizer import load_tokenizer
    from posttrain.training.arguments import trainer_config
    from posttrain.training.packing import IsolatesPackedRows
    from posttrain.training.run import to_dataset, train, trainer_scratch
    from posttrain.training.truncation import count_truncated

    trajectories = read_trajectories(data.path)
    columns = SHAPES[str(data.record.facts["shape"])]
    rows = [{column: row[column] for column in columns} for row in trajectories]
    with trainer_scratch() as scratch:
        config = trainer_config(SFTConfig, settings, scratch, **owned)
        context = int(init.record.facts.get("context", 0))
        truncated = count_truncated(rows, load_tokenizer(init.path), config.max_length, context, max_truncated)
        trainer = type("SFTTrainer", (*mixins, IsolatesPackedRows, SFTTrainer), {})
        _, work = train(trainer, config, to_dataset(rows, columns), settings, init, out, progress, **more)
    work.trace = provenance.offline((row.get("sampler") for row in trajectories), init.digest)
    # TRL ends every completion with EOS, also one that its sampler never ended.
    unfinished = sum(row.get("finish") == "length" for row in trajectories)
    work.counts = {"rows": len(rows), "truncated": truncated, "unfinished": unfinished}
    return work
