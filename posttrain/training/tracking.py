"""What a tracked run is called, and the curves as a TensorBoard file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from posttrain.artifacts.digests import LOGS_FOLDER
from posttrain.training.settings import TrainSettings

# Set on every pod by posttrain.pipelines.scheduling: KFP itself tells a pod nothing of its run.
RUN_VARIABLE = "KFP_RUN_NAME"
_FILE = "events.out.tfevents.0.posttrain"


def run_name(settings: TrainSettings, stage: str) -> str:
    """What the run is called where it is tracked: as it is told, or after the pipeline run and the stage."""
    parts = (os.environ.get(RUN_VARIABLE), settings.name or stage)
    return settings.run_name or " ".join(part for part in parts if part)


@contextmanager
def tracked(trackers: Sequence[str]) -> Iterator[None]:
    """End the runs that Transformers opened: W&B's would go on to the end of the process, into the next stage."""
    failed = 1
    try:
        yield
        failed = 0
    finally:
        if "wandb" in trackers:
            import wandb

            wandb.finish(exit_code=failed)


def write_events(artifact: Path, curves: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Write curves as TensorBoard's event file into the artifact.

    TensorBoard's own writers put the time and the host into the file and its name; this one's bytes follow from the
    curves alone, so that the same run leaves the same artifact. The time of an event is its step, in seconds.

    Args:
        curves: metric → [step, value] pairs.
    """
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter

    folder = artifact / LOGS_FOLDER
    folder.mkdir()
    writer = RecordWriter(str(folder / _FILE))
    writer.write(Event(file_version="brain.Event:2").SerializeToString())
    for name, points in sorted(curves.items()):
        for step, value in points:
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
            writer.write(Event(wall_time=step, step=int(step), summary=summary).SerializeToString())
    writer.close()
