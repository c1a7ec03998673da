"""Running a TRL trainer inside a stage."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain.artifacts.artifact import Artifact
from posttrain.progress import Progress
from posttrain.stage import Work
from posttrain.training.policy import save_policy


@contextmanager
def trainer_scratch() -> Iterator[Path]:
    """A directory for what the trainer itself writes; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="posttrain-trainer-") as directory:
        yield Path(directory)


def train(make: Callable[[Any], Any], init: Artifact, out: Path, progress: Progress) -> tuple[Any, Work]:
    """Build a trainer, train, and write the policy.

    Args:
        make: builds the trainer around the callback that it is given.

    Returns:
        The trainer, and the work with the policy's fingerprint, its curves and its last metrics.
    """
    quiet()
    from transformers import PrinterCallback

    from posttrain.training.callbacks import Listener

    listener = Listener(progress)
    trainer = make(listener)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    facts = save_policy(trainer.accelerator.unwrap_model(trainer.model), init, out)
    curves = listener.thinned()
    metrics = {name: points[-1][1] for name, points in curves.items()}
    return trainer, Work(facts=facts, curves=curves, metrics=metrics)


def quiet() -> None:
    """Our progress and curves replace Transformers' bars and printed logs."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
