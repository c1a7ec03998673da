"""The KFP face of the stage distill."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def distill(
    init: dsl.Input[dsl.Model],
    policy: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    teacher_1: dsl.Input[dsl.Model] = None,
    problems: dsl.Input[dsl.Dataset] = None,
    data: dsl.Input[dsl.Dataset] = None,
    teacher_2: dsl.Input[dsl.Model] = None,
    teacher_3: dsl.Input[dsl.Model] = None,
    teacher_4: dsl.Input[dsl.Model] = None,
    teacher_5: dsl.Input[dsl.Model] = None,
    teacher_6: dsl.Input[dsl.Model] = None,
    teacher_7: dsl.Input[dsl.Model] = None,
    teacher_8: dsl.Input[dsl.Model] = None,
    method: str = "on_policy_distillation",
    divergence: str = "reverse",
    routes: dict = {},
    learning_rate: float = 1e-6,
    epochs: float = 3.0,
    max_steps: int = 0,
    batch_size: int = 8,
    max_new_tokens: int = 512,
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
    """Distil teachers, or a context, into a student: on its rollouts, fixed trajectories, or stored logits.
    Args:
        init: The student.
        teacher_1: The policy to learn from.
        problems: Prompts for the student's rollouts (on-policy).
        data: The teachers' trajectories, stored logits, or demonstrations, as the method says.
        teacher_2: Teacher 2, of slices that routes names.
        teacher_3: Teacher 3, of slices that routes names.
        teacher_4: Teacher 4, of slices that routes names.
        teacher_5: Teacher 5, of slices that routes names.
        teacher_6: Teacher 6, of slices that routes names.
        teacher_7: Teacher 7, of slices that routes names.
        teacher_8: Teacher 8, of slices that routes names.
        method: on_policy_distillation, gkd, self_distillation, sequence_distillation or logit_distillation.
        divergence: forward keeps coverage, reverse sharpens, jsd is between (on rollouts).
        routes: Slice to the number of its teacher (on rollouts); empty is the first for all.
        learning_rate: Peak learning rate.
        epochs: Passes over the data.
        max_steps: Optimizer steps, instead of epochs; 0 is by epochs.
        batch_size: Sequences per device and forward pass.
        max_new_tokens: Longest rollout in tokens.
        seed: Seeds every random choice.
        checkpoint_uri: Where the run is kept while it trains (s3://…), to go on from; empty is nowhere.
        checkpoint_steps: Optimizer steps between checkpoints; 0 is by time.
        checkpoint_seconds: Seconds between checkpoints, where not by steps.
        nodes: Where a TrainJob does the work, and with what; {} is in this pod.
        trainer_args: Any other argument of the trainer's TRL config.
        settings: Any other setting of the stage, such as temperature, by name; wins over the parameters above.
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
