"""The KFP face of the stage distill."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def distill(
    init: dsl.Input[dsl.Model],
    teacher: dsl.Input[dsl.Model],
    policy: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    problems: dsl.Input[dsl.Dataset] = None,
    data: dsl.Input[dsl.Dataset] = None,
    method: str = "on_policy_distillation",
    divergence: str = "reverse",
    learning_rate: float = 1e-6,
    epochs: float = 3.0,
    max_steps: int = 0,
    batch_size: int = 8,
    accumulation: int = 1,
    max_new_tokens: int = 512,
    temperature: float = 1.0,
    lora_rank: int = 0,
    seed: int = 0,
    trainer_args: dict = {},
    settings: dict = {},
    name: str = "",
    role: str = "",
):
    """Distil a teacher into a student, on the student's rollouts or on the teacher's trajectories.

    Args:
        init: The student.
        teacher: The policy to learn from.
        problems: Prompts for the student's rollouts (on-policy).
        data: The teacher's trajectories (sequence-level).
        method: on_policy_distillation or sequence_distillation.
        divergence: forward keeps coverage, reverse sharpens, jsd is between (on-policy only).
        learning_rate: Peak learning rate.
        epochs: Passes over the data.
        max_steps: Optimizer steps, instead of epochs; 0 is by epochs.
        batch_size: Sequences per device and forward pass.
        accumulation: Forward passes per optimizer step.
        max_new_tokens: Longest rollout in tokens.
        temperature: Of sampling and of the divergence.
        lora_rank: 0 trains all weights; otherwise LoRA, merged into the policy at the end.
        seed: Seeds every random choice.
        trainer_args: Any other argument of trl.DistillationConfig.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.
        role: The role it is meant to play: expansion, reshaping or consolidation.

    Returns:
        policy: The trained student, with its record.
        metrics: The last value of every training curve.
        page: What was trained from what, with curves.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("distill", arguments)
