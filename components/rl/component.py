"""The KFP face of the stage rl."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def rl(
    init: dsl.Input[dsl.Model],
    problems: dsl.Input[dsl.Dataset],
    policy: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    reward_model_1: dsl.Input[dsl.Model] = None,
    reward_model_2: dsl.Input[dsl.Model] = None,
    reward_model_3: dsl.Input[dsl.Model] = None,
    process_reward_model: dsl.Input[dsl.Model] = None,
    hints: dsl.Input[dsl.Dataset] = None,
    evaluation: dsl.Input[dsl.Dataset] = None,
    reference: dsl.Input[dsl.Model] = None,
    method: str = "grpo",
    rewards: dict = {"verifier": 1.0},
    learning_rate: float = 1e-6,
    epochs: float = 3.0,
    max_steps: int = 0,
    batch_size: int = 8,
    group_size: int = 8,
    kl: float = 0.0,
    max_new_tokens: int = 512,
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
    """Reinforcement learning from verified or modelled rewards: GRPO and its published variants (on-policy).
    Args:
        init: The policy to start from.
        problems: Prompts with verifiers.
        reward_model_1: Scores answers (the term reward_model).
        reward_model_2: Another, whose score is averaged with the first's.
        reward_model_3: A third.
        process_reward_model: Scores the steps of answers (the term process_reward_model).
        hints: Right answers, whose beginnings are given where every sample fails.
        evaluation: Of these problems; who is hinted, and what a curriculum goes by.
        reference: The policy to stay near, if not init.
        method: grpo, dr_grpo, dapo, gspo, reinforce_pp, rloo … (the README lists them).
        rewards: Weight of each term; verifier, reward_model, format, length … (the README lists them).
        learning_rate: Peak learning rate.
        epochs: Passes over the data.
        max_steps: Optimizer steps, instead of epochs; 0 is by epochs.
        batch_size: Sequences per device and forward pass.
        group_size: Completions a prompt, the group that advantages compare.
        kl: Weight of the KL term towards the reference.
        max_new_tokens: Longest completion in tokens.
        lora_rank: 0 trains all weights; otherwise LoRA, merged into the policy at the end.
        seed: Seeds every random choice.
        checkpoint_uri: Where the run is kept while it trains (s3://…), to go on from; empty is nowhere.
        checkpoint_steps: Optimizer steps between checkpoints; 0 is by time.
        checkpoint_seconds: Seconds between checkpoints, where not by steps.
        nodes: Where a TrainJob does the work, and with what; {} is in this pod.
        trainer_args: Any other argument of trl.GRPOConfig (RLOOConfig for rloo).
        settings: Any other setting of the stage, such as temperature, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.
        role: The role it is meant to play: expansion, reshaping or consolidation.
    Returns:
        policy: The trained policy, with its record.
        metrics: The last value of every training curve.
        page: What was trained from what, with curves.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("rl", arguments)
