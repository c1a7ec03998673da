"""The KFP face of the stage preference."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def preference(
    init: dsl.Input[dsl.Model],
    data: dsl.Input[dsl.Dataset],
    policy: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    reference: dsl.Input[dsl.Model] = None,
    method: str = "dpo",
    beta: float = 0.0,
    learning_rate: float = 1e-6,
    epochs: float = 1.0,
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
    """Preference optimisation of a policy on pairs or labels (off-policy).

    Args:
        init: The policy to start from, and the reference unless another is given.
        data: Rows with prompt, chosen, rejected; for kto also rows with prompt, completion, label.
        reference: The policy to stay close to, if not init.
        method: The published loss, such as dpo, ipo, apo_zero, rpo, mpo, kto, simpo or orpo; the README has them all.
        beta: How strongly the policy is held to the reference; 0 is the method's usual.
        learning_rate: Peak learning rate.
        epochs: Passes over the data.
        max_steps: Optimizer steps, instead of epochs; 0 is by epochs.
        batch_size: Pairs (for kto: answers) per device and forward pass.
        accumulation: Forward passes per optimizer step.
        max_length: Longest prompt and completion in tokens.
        lora_rank: 0 trains all weights; otherwise LoRA, merged into the policy at the end.
        seed: Seeds every random choice.
        checkpoint_uri: Where the run is kept while it trains (s3://…), to go on from; empty is nowhere.
        checkpoint_steps: Optimizer steps between checkpoints; 0 is by time.
        checkpoint_seconds: Seconds between checkpoints, where not by steps.
        nodes: Where a TrainJob does the work, and with what; {} is in this pod.
        trainer_args: Any other argument of the TRL config of the method.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.
        role: The role it is meant to play: expansion, reshaping or consolidation.

    Returns:
        policy: The trained policy, with its record.
        metrics: The last value of every training curve, such as rewards/margins.
        page: What was trained from what, with curves.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("preference", arguments)
