"""Running a TRL trainer inside a stage."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain.artifacts.artifact import Artifact
from posttrain.errors import ConfigError
from posttrain.generation.tokenizer import load_tokenizer
from posttrain.progress import Progress
from posttrain.stage import Work
from posttrain.training.policy import lora_config, save_policy
from posttrain.training.settings import TrainSettings
from posttrain.training.tracking import tracked


@contextmanager
def trainer_scratch() -> Iterator[Path]:
    """A directory for what the trainer itself writes; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="posttrain-trainer-") as directory:
        yield Path(directory)


def train(
    trainer_class: Any,
    config: Any,
    dataset: Any,
    settings: TrainSettings,
    init: Artifact,
    out: Path,
    progress: Progress,
    **more: Any,
) -> tuple[Any, Work]:
    """Build a TRL trainer, train from `init`, and write the policy.

    Args:
        trainer_class: a TRL trainer, for example `trl.SFTTrainer`.
        config: its config.
        dataset: a `datasets.Dataset` in a shape that the trainer takes.
        more: the trainer's own arguments, as `reward_funcs` or `teacher_model`; and `counted` and `judged`, what the
            stage itself and its verifiers count while it trains, which is kept with the run.

    Returns:
        The trainer, and the work with the policy's fingerprint, its curves and its last metrics.

    Raises:
        ConfigError: the trainer refuses its arguments.
        Preempted: the process was told to end, and the run is kept (see `posttrain.training.keeping`).
    """
    trainer, work = fit(trainer_class, config, dataset, init, progress, peft_config=lora_config(settings), **more)
    work.facts = save_policy(trained_model(trainer), init, out)
    return trainer, work


def fit(
    trainer_class: Any,
    config: Any,
    dataset: Any,
    init: Artifact,
    progress: Progress,
    counted: Counter[str] | None = None,
    judged: dict[str, Counter[str]] | None = None,
    **more: Any,
) -> tuple[Any, Work]:
    """As `train`, but what was trained is left in the trainer: for what is not a policy."""
    quiet()
    from transformers import PrinterCallback

    from posttrain.training.callbacks import Listener
    from posttrain.training.keeping import current_run
    from posttrain.training.resuming import ResumesExactly

    listener, run = Listener(progress), current_run()
    if run:
        trainer_class = type(trainer_class.__name__, (ResumesExactly, trainer_class), {})
    # The path, not the model: TRL reloads a reference policy from it.
    try:
        trainer = trainer_class(
            model=str(init.path),
            args=config,
            train_dataset=dataset,
            processing_class=load_tokenizer(init.path),
            callbacks=[listener],
            **more,
        )
    except ValueError as error:  # how TRL refuses arguments that do not go together
        raise ConfigError(f"{trainer_class.__name__}: {str(error).splitlines()[0]}") from error
    trainer.remove_callback(PrinterCallback)
    trainer.counted, trainer.judged = counted, judged
    with tracked(config.report_to):
        if run:
            run.train(trainer, init, progress)
        else:
            trainer.train()
    curves = listener.thinned()
    metrics = {name: points[-1][1] for name, points in curves.items()}
    return trainer, Work(curves=curves, metrics=metrics)


def to_dataset(rows: list[dict[str, Any]], columns: Sequence[str]) -> Any:
    """The rows as a `datasets.Dataset`, in order."""
    from datasets import Dataset

    return Dataset.from_dict({column: [row[column] for row in rows] for column in columns})


def trained_model(trainer: Any) -> Any:
    """The model that a trainer trained, without what distributed training wraps it in."""
    return trainer.accelerator.unwrap_model(trainer.model)


def quiet() -> None:
    """Our progress and curves replace Transformers' bars and printed logs."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
