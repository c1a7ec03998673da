"""The KFP face of the stage reward_model."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def reward_model(
    init: dsl.Input[dsl.Model],
    data: dsl.Input[dsl.Dataset],
    reward_model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    verified: dsl.Input[dsl.Dataset] = None,
    members_1: dsl.Input[dsl.Model] = None,
    members_2: dsl.Input[dsl.Model] = None,
    members_3: dsl.Input[dsl.Model] = None,
    learning_rate: float = 1e-4,
    epochs: float = 1.0,
    max_steps: int = 0,
    batch_size: int = 8,
    accumulation: int = 1,
    max_length: int = 1024,
    center: float = 0.0,
    lora_rank: int = 0,
    seed: int = 0,
    checkpoint_uri: str = "",
    checkpoint_steps: int = 0,
    checkpoint_seconds: float = 600.0,
    nodes: dict = {},
    trainer_args: dict = {},
    settings: dict = {},
    name: str = "",
    role: str = "",
):
    """A Bradley-Terry reward model from preferences (off-policy).

    Args:
        init: The policy whose body the reward model takes.
        data: Preference rows: prompt, chosen, rejected.
        verified: Scored answers or preferences to judge it by, not trained on.
        members_1: Another reward model of its ensemble: how far do they disagree?
        members_2: And another.
        members_3: And another.
        learning_rate: Peak learning rate.
        epochs: Passes over the data.
        max_steps: Optimizer steps, instead of epochs; 0 is by epochs.
        batch_size: Sequences per device and forward pass.
        accumulation: Forward passes per optimizer step.
        max_length: Longest prompt and completion in tokens; longer pairs are left out.
        center: Weight of keeping the mean score at zero; 0.01 is usual.
        lora_rank: 0 trains all weights; otherwise LoRA, merged at the end.
        seed: Seeds every random choice.
        checkpoint_uri: Where the run is kept while it trains (s3://…), to go on from; empty is nowhere.
        checkpoint_steps: Optimizer steps between checkpoints; 0 is by time.
        checkpoint_seconds: Seconds between checkpoints, where not by steps.
        nodes: Where a TrainJob does the work, and with what; {} is in this pod.
        trainer_args: Any other argument of trl.RewardConfig.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.
        role: The role it is meant to play: expansion, reshaping or consolidation.

    Returns:
        reward_model: A sequence classifier with one label, with its record.
        metrics: AUC and accuracy on unseen pairs, accuracy on the training pairs, last value of every curve.
        page: What was trained from what, with curves.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("reward_model", arguments)
