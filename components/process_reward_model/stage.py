"""A process reward model: the probability that a solution is still right after each of its steps.

1. `init` with one output in place of its vocabulary, read at the last token of a step: an ordinary Transformers
   directory of a token classifier with one label, beside the tokenizer and chat template of `init`.
2. Binary cross-entropy at step ends (2211.14275; TRL has no trainer for it any more): `posttrain.training
   .process_trainer`. Labels in [0, 1] are taken as they are (soft), or as whether they are above zero (hard).
3. A share of the problems is held out, not of the rows: other solutions of a problem would give its answer away. AUC
   and accuracy are those of their steps, beside the share of the commoner label and what the depth alone would tell.
4. A solution over `max_length` tokens loses the steps beyond; they are counted, and too many are an error.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from posttrain.components.process_reward_model.judged import Judged, judged_blocks, judged_metrics
from pydantic import Field

from posttrain.artifacts import provenance
from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import size_of
from posttrain.artifacts.rows import Row
from posttrain.artifacts.trajectories import problem_of, read_trajectories, samplers
from posttrain.errors import ConfigError, ContractError
from posttrain.generation.steps import Steps, join_steps
from posttrain.progress import Progress
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind
from posttrain.training.arguments import check_trainer_args
from posttrain.training.settings import TrainSettings

# Of a classifier's config, what its policy's lacks: Transformers keeps the number of labels as their names.
_HEAD = ("architectures", "id2label", "label2id")

Example = tuple[Row, Steps]


class ProcessRewardModelSettings(TrainSettings):
    """Process reward modelling."""

    learning_rate: float = Field(default=1e-5, gt=0, description="peak learning rate")
    epochs: float = Field(default=1.0, gt=0, description="passes over the data; more overfit")
    max_length: int = Field(default=2048, gt=0, description="longest prompt and solution in tokens")
    labels: Literal["soft", "hard"] = Field(
        default="hard", description="learn each label as it is, or whether it is above zero"
    )
    separator: str = Field(default="", description="what ends a step; empty = as the data says, else a newline")
    held_out: float = Field(default=0.1, gt=0, lt=1, description="share of the problems that it is judged on")
    max_truncated: float = Field(default=0.05, ge=0, le=1, description="largest share of solutions that may be cut")


PARENTS = {
    "init": ParentSpec(Kind.POLICY, help="the policy whose body the model takes"),
    "data": ParentSpec(Kind.TRAJECTORIES, help="stepwise rows: prompt, completions, labels"),
}


def check_settings(settings: ProcessRewardModelSettings) -> None:
    """Adapters must be whole and unrounded to be merged into a token classifier."""
    if settings.quantize != "none":
        raise ConfigError(
            f"process_reward_model: quantize={settings.quantize} cannot be merged into a token classifier; leave it out"
        )
    if settings.lora_rank and settings.strategy in ("fsdp", "zero3"):
        raise ConfigError(
            f"process_reward_model: lora_rank={settings.lora_rank} with strategy={settings.strategy} cannot be merged "
            "into a token classifier; use ddp or zero2, or lora_rank=0"
        )
    check_trainer_args("TrainingArguments", settings)


def check(settings: ProcessRewardModelSettings, parents: Parents) -> None:
    """The rows must be solutions in steps, of several problems, with labels in [0, 1]."""
    init, data = parents.one("init"), parents.one("data")
    shape = data.record.facts.get("shape")
    if shape != "stepwise":
        raise ContractError(
            f"process_reward_model: data has shape {shape!r}; it learns from stepwise rows (prompt, completions, "
            "labels), as step_labels makes"
        )
    rows = read_trajectories(data.path)
    for number, row in enumerate(rows, start=1):
        labels = row["labels"] or []
        if not labels or len(labels) != len(row["completions"]):
            raise ContractError(
                f"process_reward_model: data row {number} has {len(row['completions'])} steps and {len(labels)} labels"
            )
        if not all(label is not None and 0 <= label <= 1 for label in labels):
            raise ContractError(f"process_reward_model: data row {number} has a label outside [0, 1]: {labels}")
    if len({problem_of(row) for row in rows}) < 2:
        raise ContractError("process_reward_model: data has one problem; two are needed, to learn from and to judge on")
    if any(isinstance(row["prompt"], list) for row in rows) and not init.record.facts.get("chat_template"):
        raise ContractError("process_reward_model: data is conversational, but init has no chat template; add one")


def run(settings: ProcessRewardModelSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Train, judge and write the model."""
    from transformers import TrainingArguments

    from posttrain.training.arguments import trainer_config
    from posttrain.training.policy import lora_config, save_policy
    from posttrain.training.process_trainer import ProcessRewardTrainer
    from posttrain.training.run import fit, to_dataset, trained_model, trainer_scratch

    init, data = parents.one("init"), parents.one("data")
    separator = settings.separator or str(data.record.facts.get("separator", "\n"))
    examples, counts = encoded(read_trajectories(data.path), init, settings, separator)
    learned, judged = divided(examples, settings.held_out, settings.seed)
    columns = ("input_ids", "labels")
    rows = [dict(zip(columns, targets(*example, settings.labels), strict=True)) for example in learned]
    with trainer_scratch() as scratch:
        config = trainer_config(TrainingArguments, settings, scratch, remove_unused_columns=False)
        # PEFT's TOKEN_CLS would put adapters on the head that it trains whole; SEQ_CLS knows to leave it out.
        adapter = lora_config(settings, task="SEQ_CLS")
        dataset = to_dataset(rows, columns)
        trainer, work = fit(ProcessRewardTrainer, config, dataset, init, progress, peft_config=adapter)
        seen = judge(trained_model(trainer), judged, settings)
    work.facts = save_policy(trained_model(trainer), init, out, own_config=_HEAD) | {"separator": separator}
    found = judged_metrics(seen, settings.seed)
    work.metrics |= {name: value for name, value in found.items() if np.isfinite(value)}
    work.blocks = judged_blocks(seen, found)
    work.trace = provenance.offline((sampler for row, _ in learned for sampler in samplers(row)), init.digest)
    work.counts = counts | {
        "learned_from": len(learned),
        "held_out": len(judged),
        "held_out_problems": len({problem_of(row) for row, _ in judged}),
        "held_out_steps": len(seen.right_N),
    }
    return work


def encoded(
    rows: Sequence[Row], init: Artifact, settings: ProcessRewardModelSettings, separator: str
) -> tuple[list[Example], dict[str, int]]:
    """The rows with their steps in tokens, without what does not fit.

    Raises:
        ContractError: more than `max_truncated` of the rows are cut, or too little is left.
    """
    from posttrain.generation.tokenizer import load_tokenizer
    from posttrain.training.truncation import refuse_cut

    tokenizer, context = load_tokenizer(init.path), int(init.record.facts.get("context", 0))
    limit = min(settings.max_length, context or settings.max_length)
    whole = [(row, join_steps(tokenizer, row["prompt"], row["completions"], separator)) for row in rows]
    cut = [(row, steps.shortened(sum(end <= limit for end in steps.ends))) for row, steps in whole]
    long = refuse_cut([len(steps.ids) for _, steps in whole], limit, settings.max_truncated)
    kept = [(row, steps) for row, steps in cut if steps.ends]
    if len({problem_of(row) for row, _ in kept}) < 2:
        raise ContractError(
            f"process_reward_model: under max_length={limit} steps of {len(kept)} solutions are left, not of two "
            "problems; raise max_length"
        )
    steps = sum(len(steps.ends) for _, steps in kept)
    lost = sum(len(steps.ends) for _, steps in whole) - steps
    return kept, {"solutions": len(rows), "truncated": long, "steps": steps, "steps_lost": lost}


def divided(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """What is learned from, and what is judged on: by problem, at least one on either side."""
    problems = sorted({problem_of(row) for row, _ in examples})
    random.Random(seed).shuffle(problems)
    aside = set(problems[: min(max(1, round(share * len(problems))), len(problems) - 1)])
    return (
        [example for example in examples if problem_of(example[0]) not in aside],
        [example for example in examples if problem_of(example[0]) in aside],
    )


def targets(row: Row, steps: Steps, labels: str) -> tuple[list[int], list[float]]:
    """A row's token ids, and a label a token. Of two steps that end with one token the later is learned."""
    from posttrain.training.process_trainer import NOT_A_STEP

    labels_T = [NOT_A_STEP] * len(steps.ids)
    for end, label in zip(steps.ends, row["labels"], strict=False):
        labels_T[end - 1] = float(label > 0) if labels == "hard" else float(label)
    return steps.ids, labels_T


def judge(model: Any, examples: Sequence[Example], settings: ProcessRewardModelSettings) -> Judged:
    """Scores of the held-out steps. What counts as right is the label as it is learned, rounded."""
    from posttrain.generation.process import token_scores

    names = {name: index for index, name in enumerate(dict.fromkeys(problem_of(row) for row, _ in examples))}
    scores = token_scores(model, [steps.ids for _, steps in examples], settings.batch_size)
    found = [
        (names[problem_of(row)], depth, scores_T[end - 1], label > 0 if settings.labels == "hard" else label >= 0.5)
        for (row, steps), scores_T in zip(examples, scores, strict=True)
        for depth, (end, label) in enumerate(zip(steps.ends, row["labels"], strict=False), start=1)
    ]
    problem, depth, score, right = zip(*found, strict=True)
    return Judged(np.array(problem), np.array(depth), np.array(score, dtype=np.float64), np.array(right, dtype=bool))


STAGE = Stage(
    name="process_reward_model",
    output="process_reward_model",
    makes=Kind.PROCESS_REWARD_MODEL,
    parents=PARENTS,
    settings=ProcessRewardModelSettings,
    run=run,
    check_settings=check_settings,
    check=check,
    size=lambda parents: 2 * size_of(parents.one("init")),
)
