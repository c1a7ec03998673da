"""The KFP face of the stage verify."""

from kfp import dsl
from posttrain.components.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def verify(
    trajectories: dsl.Input[dsl.Dataset],
    scored: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    min_reward: float = 0.0,
    max_per_problem: int = 0,
    distinct: bool = False,
    seed: int = 0,
    settings: dict = {},
    name: str = "",
):
    """Score trajectories by each row's verifier; optionally keep only the best of them.

    Args:
        trajectories: Rows with verifier and reference, such as rollouts.
        min_reward: Keep only rows with at least this reward; 0 keeps all.
        max_per_problem: Keep at most so many rows a problem; 0 is all.
        distinct: Keep one row for each distinct completion of a problem.
        seed: Seeds every random choice.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        scored: The trajectories with rewards.
        metrics: Mean reward and the share of rows kept.
        page: What was scored, kept and dropped.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("verify", arguments)
