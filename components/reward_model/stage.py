"""A reward model from preferences: a score r with P(chosen above rejected) = σ(r(chosen) − r(rejected)).

1. Bradley–Terry by `trl.RewardTrainer` (2203.02155, eq. 1): minimises −log σ(r(chosen) − r(rejected)).
2. The model is `init` with one output in place of its vocabulary, read at the last token: an ordinary Transformers
   directory of a sequence classifier with one label, beside the tokenizer and chat template of `init`.
3. A score means something against another for the same prompt only; `center` keeps its mean near zero (2312.09244).
4. `margins` ask for a distance between the scores as large as that between the rewards of a pair (2307.09288, eq. 2).
5. TRL leaves out pairs longer than `max_length` without a word; here they are counted, and an error above a share.
Whether it judges is measured on answers that it was not trained on: of a parent `verified`, or of a share of its own
problems that is kept back. The accuracy on its training pairs says only that it learned them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.components.reward_model.unseen import (
    Answer,
    answers_of,
    ensemble_metrics,
    judged,
    scores_of,
    split,
    unseen_blocks,
    unseen_metrics,
    with_contrast,
)
from pydantic import Field

from posttrain.artifacts import provenance
from posttrain.artifacts.contracts import renders, size_of
from posttrain.artifacts.rows import Row
from posttrain.artifacts.trajectories import problem_of, read_trajectories, samplers
from posttrain.errors import ContractError
from posttrain.progress import Progress
from posttrain.settings import changed
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind
from posttrain.training.arguments import check_trainer_args
from posttrain.training.ranks import is_main
from posttrain.training.settings import TrainSettings

_PAIR = ("prompt", "chosen", "rejected")
_LOOKED_AT = 256  # training pairs that are scored again at the end
# Of a classifier's config, what its policy's lacks: Transformers keeps the number of labels as their names.
_HEAD = ("architectures", "id2label", "label2id", "pad_token_id")


class RewardModelSettings(TrainSettings):
    """Reward modelling."""

    learning_rate: float = Field(default=1e-4, gt=0, description="peak learning rate")
    epochs: float = Field(default=1.0, gt=0, description="passes over the data; more overfit")
    max_length: int = Field(default=1024, gt=0, description="longest prompt and completion in tokens")
    center: float = Field(default=0.0, ge=0, description="weight of keeping the mean score at zero; 0.01 is usual")
    margins: bool = Field(default=False, description="learn by how much the chosen one was better, from their rewards")
    held_out: float = Field(
        default=0.1, ge=0, lt=1, description="share of the problems kept back to judge it by, without 'verified'"
    )
    max_dropped: float = Field(default=0.05, ge=0, le=1, description="largest share of pairs left out as too long")


PARENTS = {
    "init": ParentSpec(Kind.POLICY, help="the policy whose body the reward model takes"),
    "data": ParentSpec(Kind.TRAJECTORIES, help="preference rows: prompt, chosen, rejected"),
    "verified": ParentSpec(
        Kind.TRAJECTORIES, required=False, help="scored answers or preferences to judge it by, not trained on"
    ),
    "members": ParentSpec(
        Kind.REWARD_MODEL, most=3, required=False, help="others of its ensemble: how far do they disagree?"
    ),
}


def check(settings: RewardModelSettings, parents: Parents) -> None:
    """The rows must be pairs that the policy's template can render."""
    init, data = parents.one("init"), parents.one("data")
    shape = data.record.facts.get("shape")
    if shape != "preference":
        raise ContractError(
            f"reward_model: data has shape {shape!r}; it learns from preference rows ({', '.join(_PAIR)})"
        )
    rows = read_trajectories(data.path)
    if not rows:
        raise ContractError("reward_model: data has no rows")
    renders(init.record.facts.get("chat_template"), rows[0]["chosen"], "reward_model")
    if settings.margins:
        list(map(_margin, rows))
    _, unseen = parted(settings, rows, parents)
    if (parents.maybe("verified") or parents.all("members")) and not unseen:
        raise ContractError(
            "reward_model: no problem to judge it by has a right and a wrong answer and is not trained on; give "
            "'verified' other problems, or answers of both kinds"
        )


def parted(settings: RewardModelSettings, rows: list[Row], parents: Parents) -> tuple[list[Row], list[Answer]]:
    """Rows to train on, and answers to judge by.

    Raises:
        ContractError: problems are to be kept back although others are given.
    """
    verified = parents.maybe("verified")
    if verified is None:
        train, kept_back = split(rows, settings.held_out, settings.seed)
        return train, with_contrast(answers_of(kept_back))
    if settings.held_out and "held_out" in changed(settings):
        raise ContractError(
            f"reward_model: held_out={settings.held_out} with a parent 'verified', which it is judged by; leave one out"
        )
    seen = {problem_of(row) for row in rows}
    others = [row for row in read_trajectories(verified.path) if problem_of(row) not in seen]
    return rows, with_contrast(answers_of(others))


def _margin(row: Row) -> float:
    """By how much the chosen answer was better, as verifier or reward model said.

    Raises:
        ContractError: neither did.
    """
    for what in ("reward", "score"):
        chosen, rejected = row.get(f"chosen_{what}"), row.get(f"rejected_{what}")
        if chosen is not None and rejected is not None:
            return float(chosen) - float(rejected)
    raise ContractError(
        "reward_model: margins=true, but a pair has no chosen_reward and rejected_reward; build the pairs with pairs, "
        "or leave margins out"
    )


def run(settings: RewardModelSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Train and write the reward model."""
    from trl import RewardConfig, RewardTrainer

    from posttrain.generation.tokenizer import load_tokenizer
    from posttrain.training.arguments import trainer_config
    from posttrain.training.policy import lora_config, save_policy
    from posttrain.training.run import fit, to_dataset, trained_model, trainer_scratch
    from posttrain.training.truncation import pair_lengths, refuse_cut

    init = parents.one("init")
    trajectories, unseen = parted(settings, read_trajectories(parents.one("data").path), parents)
    tokenizer, context = load_tokenizer(init.path), int(init.record.facts.get("context", 0))
    limit = min(settings.max_length, context or settings.max_length)
    remedy = "max_dropped to learn from the others"
    dropped = refuse_cut(pair_lengths(trajectories, tokenizer), limit, settings.max_dropped, remedy=remedy)
    if dropped == len(trajectories):
        raise ContractError(f"reward_model: every pair of data is over max_length={limit}; raise it")
    rows = [{column: row[column] for column in _PAIR} for row in trajectories]
    if settings.margins:
        rows = [row | {"margin": _margin(pair)} for row, pair in zip(rows, trajectories, strict=True)]
    with trainer_scratch() as scratch:
        owned = {"max_length": limit, "center_rewards_coefficient": settings.center or None}
        config = trainer_config(RewardConfig, settings, scratch, **owned)
        adapter = lora_config(settings, task="SEQ_CLS")
        trainer, work = fit(RewardTrainer, config, to_dataset(rows, list(rows[0])), init, progress, peft_config=adapter)
        work.metrics |= learned(trainer)
    work.facts = save_policy(trained_model(trainer), init, out, own_config=_HEAD)
    work.trace = provenance.offline((sampler for row in trajectories for sampler in samplers(row)), init.digest)
    work.counts = {"pairs": len(rows), "dropped": dropped}
    fitting = with_contrast(within(unseen, tokenizer, limit))
    if fitting and is_main():
        judge(work, fitting, [out, *(member.path for member in parents.all("members"))], settings.seed)
    work.counts |= {"unseen": len(fitting), "unseen_dropped": len(unseen) - len(fitting)}
    return work


def within(answers: Sequence[Answer], tokenizer: Any, limit: int) -> list[Answer]:
    """Those that are no longer than the pairs it is trained on."""
    from posttrain.training.truncation import token_lengths

    if not answers:
        return []
    lengths = token_lengths([{"prompt": a.prompt, "completion": a.completion} for a in answers], tokenizer)
    return [answer for answer, length in zip(answers, lengths, strict=True) if length <= limit]


def judge(work: Work, unseen: Sequence[Answer], models: Sequence[Path], seed: int) -> None:
    """Fill in what the first of these reward models, and all together, say of unseen answers."""
    import numpy as np

    members_KN = np.stack([scores_of(model, unseen) for model in models])
    found = judged(unseen, members_KN[0], seed)
    work.metrics |= unseen_metrics(found)
    work.blocks = unseen_blocks(found)
    if len(models) > 1:
        work.metrics |= ensemble_metrics(unseen, members_KN, seed)


def learned(trainer: Any) -> dict[str, float]:
    """How the trained model ranks the first of its training pairs: share ranked rightly, mean margin of the scores."""
    import torch

    margins = []
    data = trainer.train_dataset
    for batch in trainer.get_eval_dataloader(data.select(range(min(len(data), _LOOKED_AT)))):
        with torch.no_grad():
            chosen, rejected = trainer.model.eval()(**batch).logits.squeeze(-1).chunk(2)
        margins.append(trainer.accelerator.gather_for_metrics(chosen - rejected).float().cpu())
    margin_M = torch.cat(margins)
    return {"accuracy": float((margin_M > 0).double().mean()), "margin": float(margin_M.mean())}


STAGE = Stage(
    name="reward_model",
    output="reward_model",
    makes=Kind.REWARD_MODEL,
    parents=PARENTS,
    settings=RewardModelSettings,
    run=run,
    check_settings=lambda settings: check_trainer_args("RewardConfig", settings),
    check=check,
    size=lambda parents: 2 * size_of(parents.one("init")),
)
