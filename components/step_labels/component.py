"""The KFP face of the stage step_labels."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def step_labels(
    policy: dsl.Input[dsl.Model],
    trajectories: dsl.Input[dsl.Dataset],
    labelled: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    samples: int = 8,
    max_new_tokens: int = 512,
    temperature: float = 1.0,
    seed: int = 0,
    settings: dict = {},
    name: str = "",
):
    """Label the steps of solutions by rollouts from each, and measure from where a right answer is reachable.

    Args:
        policy: The completer, which goes on from each step.
        trajectories: Solutions with verifier and reference, such as rollouts.
        samples: Continuations of each prefix.
        max_new_tokens: Longest continuation in tokens.
        temperature: Sampling temperature; 0 is greedy.
        seed: Seeds every random choice.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        labelled: Stepwise rows: prompt, completions (the steps), labels (share of right continuations).
        metrics: Labels, and reachability after the first steps.
        page: Reachability by depth, and where it is lost.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("step_labels", arguments)
