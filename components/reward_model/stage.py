"""A reward model from preferences: a score r with P(chosen above rejected) = σ(r(chosen) − r(rejected)).

1. Bradley–Terry by `trl.RewardTrainer` (2203.02155, eq. 1): minimises −log σ(r(chosen) − r(rejected)).
2. The model is `init` with one output in place of its vocabulary, read at the last token: an ordinary Transformers
   directory of a sequence classifier with one label, beside the tokenizer and chat template of `init`.
3. A score means something against another for the same prompt only; `center` keeps its mean near zero (2312.09244).
4. TRL leaves out pairs longer than `max_length` without a word; here they are counted, and an error above a share.
What it measures is the accuracy on the training pairs: that it learned them, not that it judges others as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.components.sft.stage import to_dataset
from pydantic import Field

from posttrain.artifacts import provenance
from posttrain.artifacts.contracts import renders, size_of
from posttrain.artifacts.trajectories import read_trajectories, samplers
from posttrain.errors import ContractError
from posttrain.progress import Progress
from posttrain.stage import Parents, ParentSpec, Stage, Work
from posttrain.taxonomy import Kind
from posttrain.training.arguments import check_trainer_args
from posttrain.training.settings import TrainSettings

_PAIR = ("prompt", "chosen", "rejected")
# Of a classifier's config, what its policy's lacks: Transformers keeps the number of labels as their names.
_HEAD = ("architectures", "id2label", "label2id", "pad_token_id")


class RewardModelSettings(TrainSettings):
    """Reward modelling."""

    learning_rate: float = Field(default=1e-4, gt=0, description="peak learning rate")
    epochs: float = Field(default=1.0, gt=0, description="passes over the data; more overfit")
    max_length: int = Field(default=1024, gt=0, description="longest prompt and completion in tokens")
    center: float = Field(default=0.0, ge=0, description="weight of keeping the mean score at zero; 0.01 is usual")
    max_dropped: float = Field(default=0.05, ge=0, le=1, description="largest share of pairs left out as too long")


PARENTS = {
    "init": ParentSpec(Kind.POLICY, help="the policy whose body the reward model takes"),
    "data": ParentSpec(Kind.TRAJECTORIES, help="preference rows: prompt, chosen, rejected"),
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


def run(settings: RewardModelSettings, parents: Parents, out: Path, progress: Progress) -> Work:
    """Train and write the reward model."""
    from trl import RewardConfig, RewardTrainer

    from posttrain.generation.tokenizer import load_tokenizer
    from posttrain.training.arguments import trainer_config
    from posttrain.training.policy import lora_config, save_policy
    from posttrain.training.run import fit, trained_model, trainer_scratch

    init, trajectories = parents.one("init"), read_trajectories(parents.one("data").path)
    context = int(init.record.facts.get("context", 0))
    limit = min(settings.max_length, context or settings.max_length)
    dropped = count_dropped(trajectories, load_tokenizer(init.path), limit, settings.max_dropped)
    rows = [{column: row[column] for column in _PAIR} for row in trajectories]
    with trainer_scratch() as scratch:
        owned = {"max_length": limit, "center_rewards_coefficient": settings.center or None}
        config = trainer_config(RewardConfig, settings, scratch, **owned)
        adapter = lora_config(settings, task="SEQ_CLS")
        trainer, work = fit(RewardTrainer, config, to_dataset(rows, _PAIR), init, progress, peft_config=adapter)
        work.metrics |= judged(trainer)
    work.facts = save_policy(trained_model(trainer), init, out, own_config=_HEAD)
    work.trace = provenance.offline((sampler for row in trajectories for sampler in samplers(row)), init.digest)
    work.counts = {"pairs": len(rows), "dropped": dropped}
    return work


def count_dropped(rows: list[dict[str, Any]], tokenizer: Any, limit: int, max_share: float) -> int:
    """Pairs of which either completion, with its prompt, is over `limit` tokens.

    Raises:
        ContractError: more than a share `max_share` of them are, or all.
    """
    from posttrain.training.truncation import pair_lengths

    lengths = pair_lengths(rows, tokenizer)
    over = [index for index, length in enumerate(lengths) if length > limit]
    if len(over) > max_share * len(rows) or len(over) == len(rows):
        raise ContractError(
            f"data row {over[0] + 1} has {lengths[over[0]]} tokens, over max_length={limit} ({len(over)} of "
            f"{len(rows)} pairs, allowed {max_share:.1%}); raise max_length, or max_dropped to learn from the others"
        )
    return len(over)


def judged(trainer: Any) -> dict[str, float]:
    """How the trained model ranks its training pairs: share ranked rightly, mean margin of the scores."""
    import torch

    margins = []
    for batch in trainer.get_eval_dataloader(trainer.train_dataset):
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
