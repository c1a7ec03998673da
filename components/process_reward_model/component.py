"""The KFP face of the stage process_reward_model."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def process_reward_model(
    init: dsl.Input[dsl.Model],
    data: dsl.Input[dsl.Dataset],
    process_reward_model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    labels: str = "hard",
    learning_rate: float = 1e-5,
    epochs: float = 1.0,
    max_steps: int = 0,
    batch_size: int = 8,
    accumulation: int = 1,
    max_length: int = 2048,
    held_out: float = 0.1,
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
    """A process reward model from labelled steps (off-policy).

    Args:
        init: The policy whose body the model takes.
        data: Stepwise rows: prompt, completions (the steps), labels.
        labels: soft learns each label as it is, hard whether it is above zero.
        learning_rate: Peak learning rate.
        epochs: Passes over the data.
        max_steps: Optimizer steps, instead of epochs; 0 is by epochs.
        batch_size: Sequences per device and forward pass.
        accumulation: Forward passes per optimizer step.
        max_length: Longest prompt and solution in tokens; steps beyond are left out.
        held_out: Share of the problems that it is judged on instead.
        lora_rank: 0 trains all weights; otherwise LoRA, merged at the end.
        seed: Seeds every random choice.
        checkpoint_uri: Where the run is kept while it trains (s3://…), to go on from; empty is nowhere.
        checkpoint_steps: Optimizer steps between checkpoints; 0 is by time.
        checkpoint_seconds: Seconds between checkpoints, where not by steps.
        nodes: Where a TrainJob does the work, and with what; {} is in this pod.
        trainer_args: Any other argument of transformers.TrainingArguments.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.
        role: The role it is meant to play: expansion, reshaping or consolidation.

    Returns:
        process_reward_model: A token classifier with one label, with its record.
        metrics: AUC and accuracy on steps of held-out problems, and the last value of every training curve.
        page: Whether it tells right steps from wrong ones, with curves.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("process_reward_model", arguments)
