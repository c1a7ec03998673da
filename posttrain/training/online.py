"""What the online trainers (RL, on-policy distillation) share: prompts, schedule, measured staleness."""

from __future__ import annotations

from collections import Counter
from typing import Any

from posttrain.artifacts import provenance
from posttrain.artifacts.problems import Problem
from posttrain.artifacts.provenance import Trace
from posttrain.errors import ConfigError
from posttrain.training.staleness import MeasuresStaleness


def measuring(trainer: type, *mixins: type) -> type:
    """The TRL online trainer with its staleness measured, and with other mixins, the outermost first."""
    return type(trainer.__name__, (MeasuresStaleness, *mixins, trainer), {})


def trace_of(trainer: Any, learner: str, bound: int) -> Trace:
    """The trace of a finished online trainer."""
    return provenance.online(getattr(trainer, "staleness", Counter()), learner, bound)


def refuse_planned_staleness(planned: int, bound: int, accepted: str) -> None:
    """A schedule that must end up staler than the bound is refused before it costs anything.

    Raises:
        ConfigError: it does, and `accept_provenance` does not name it.
    """
    if planned > bound and accepted != "mixed":
        raise ConfigError(
            f"each rollout would be trained on for up to {planned} optimizer steps after it was sampled, over "
            f"max_staleness={bound}: lower the reuse (steps_per_generation, num_iterations), raise max_staleness, or "
            "accept it with accept_provenance=mixed"
        )


def enough_prompts(problems: int, per_step: int) -> None:
    """Each step takes so many different prompts; with fewer, TRL would train no step at all.

    Raises:
        ConfigError: there are fewer.
    """
    if problems < per_step:
        raise ConfigError(
            f"a step takes {per_step} different problems, but there are {problems}; lower batch_size or accumulation, "
            "or give more problems"
        )


def prompt_dataset(problems: list[Problem], **columns: list[Any]) -> Any:
    """A `datasets.Dataset` with `prompt`, the index of its problem, and other columns of a value a problem."""
    from datasets import Dataset

    own = {"prompt": [p.prompt for p in problems], "problem": list(range(len(problems)))}
    return Dataset.from_dict(own | columns)
