"""The KFP face of the stage sft."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def sft(
    init: dsl.Input[dsl.Model],
    data: dsl.Input[dsl.Dataset],
    policy: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    reference: dsl.Input[dsl.Model] = None,
    anchors: dsl.Input[dsl.Dataset] = None,
    method: str = "sft",
    learning_rate: float = 2e-5,
    epochs: float = 3.0,
    max_steps: int = 0,
    batch_size: int = 8,
    accumulation: int = 1,
    max_length: int = 1024,
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
    """Supervised fine-tuning of a policy on supplied trajectories (off-policy).

    Args:
        init: The policy to start from.
        data: Trajectories: prompt-completion, messages or text rows.
        reference: The policy to stay near instead of init (anchored, asft).
        anchors: Problems that must not get worse: measured before and after.
        method: sft (negative log-likelihood), dft (dynamic fine-tuning), anchored, asft or proximal.
        learning_rate: Peak learning rate.
        epochs: Passes over the data.
        max_steps: Optimizer steps, instead of epochs; 0 is by epochs.
        batch_size: Sequences per device and forward pass.
        accumulation: Forward passes per optimizer step.
        max_length: Longest sequence in tokens.
        lora_rank: 0 trains all weights; otherwise LoRA, merged into the policy at the end.
        seed: Seeds every random choice.
        checkpoint_uri: Where the run is kept while it trains (s3://…), to go on from; empty is nowhere.
        checkpoint_steps: Optimizer steps between checkpoints; 0 is by time.
        checkpoint_seconds: Seconds between checkpoints, where not by steps.
        nodes: Where a TrainJob does the work, and with what; {} is in this pod.
        trainer_args: Any other argument of trl.SFTConfig.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.
        role: The role it is meant to play: expansion, reshaping or consolidation.

    Returns:
        policy: The trained policy, with its record.
        metrics: The last value of every training curve.
        page: What was trained from what, with curves.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("sft", arguments)
