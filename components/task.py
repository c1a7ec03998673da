"""The joint between a KFP task and a stage: artifacts and parameters in, record, metadata, metrics and page out."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain.components.catalogue import load_stage

from posttrain.artifacts.metadata import FILES_KEY, encode
from posttrain.artifacts.record import Record
from posttrain.errors import PosttrainError
from posttrain.progress import Progress
from posttrain.report.parts import CURVES
from posttrain.stage import Stage, execute
from posttrain.storage.references import hand_on

# KFP has no lists of artifacts: the parents of a role that takes several are `evaluations_1 … evaluations_8`.
_NUMBERED = re.compile(r"(.+)_\d+$")
_NOT_SETTINGS = ("metrics", "page", "settings")


def run_task(name: str, arguments: Mapping[str, Any]) -> Record:
    """Run a stage inside a KFP task.

    Args:
        name: the stage.
        arguments: the component function's `locals()`: KFP artifacts and parameters by name. Parameters are settings
            of the stage; the parameter `settings` holds any others and wins. One is not: of a training stage, `nodes`
            has the work done by a TrainJob on so many nodes.

    Returns:
        The record of what was made.

    An error ends the process with one line and its exit code: 2 for a mistake of the user, 75 for a fault that a
    retry may mend.
    """
    stage = load_stage(name)
    parents: dict[str, list[Path]] = {}
    settings: dict[str, Any] = {}
    for key, value in arguments.items():
        role = parent_role(key, stage)
        if role and value is not None:
            parents.setdefault(role, []).extend(Path(each.path) for each in _listed(value))
        elif not role and key not in (stage.output, *_NOT_SETTINGS) and _is_set(key, value, stage):
            settings[key] = value
    nodes = settings.pop("nodes", None) if stage.trains else None
    settings |= arguments.get("settings") or {}
    output, page = arguments[stage.output], arguments["page"]
    with answering(settings.get("name") or name):
        record = _made(stage, parents, settings, Path(output.path), Path(page.path), nodes)
        uri = hand_on(Path(output.path), record)
    output.metadata.update(encode(record) | ({FILES_KEY: uri} if uri else {}))
    for metric, number in sorted(record.metrics.items()) if stage.measures else ():
        # The UI compares runs in one table of all of it, so that of many curves only those that tell most are in it.
        told = metric in CURVES or metric not in record.curves
        if told and math.isfinite(number):  # the backend fails a task that reports NaN
            arguments["metrics"].log_metric(metric, float(number))
    return record


def write_parameters(files: Mapping[str, str]) -> None:
    """A component's output parameters: path that KFP gave → text."""
    for file, text in files.items():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(text, encoding="utf-8")


def _made(stage: Stage[Any], parents: Any, settings: Any, out: Path, page: Path, nodes: Any) -> Record:
    if not nodes:
        return execute(stage, parents, settings, out, page)
    from posttrain.kubeflow.nodes import execute_on_nodes

    return execute_on_nodes(stage, parents, settings, out, page, nodes)


def _listed(value: Any) -> list[Any]:
    """One artifact, or the list that a ParallelFor collected."""
    return value if isinstance(value, list) else [value]


def _is_set(key: str, value: Any, stage: Stage[Any]) -> bool:
    """KFP has no unset parameter, so "" stands for it, unless the stage cannot do without."""
    return value != "" or stage.settings.model_fields[key].is_required()


def parent_role(key: str, stage: Stage[Any]) -> str | None:
    """The parent role that a component's argument stands for, None if it is a parameter or an output."""
    if key in stage.parents:
        return key
    numbered = _NUMBERED.match(key)
    return numbered[1] if numbered and numbered[1] in stage.parents else None


@contextmanager
def answering(stage: str) -> Iterator[None]:
    """Turn an error on purpose into one line on stderr, an event, and an exit code."""
    progress = Progress(stage)
    try:
        yield
    except PosttrainError as error:
        progress.event("failed", message=str(error))
        progress.say(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)
    except Exception as error:
        progress.event("failed", message=f"{type(error).__name__}: {error}")
        raise
