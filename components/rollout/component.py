"""The KFP face of the stage rollout."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def rollout(
    policy: dsl.Input[dsl.Model],
    problems: dsl.Input[dsl.Dataset],
    trajectories: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    samples: int = 8,
    max_new_tokens: int = 512,
    temperature: float = 1.0,
    limit: int = 0,
    seed: int = 0,
    settings: dict = {},
    name: str = "",
):
    """Sample a policy: n trajectories a problem, with sampler digest and log-probabilities.

    Args:
        policy: The sampler.
        problems: What to sample on.
        samples: Trajectories a problem.
        max_new_tokens: Longest completion in tokens.
        temperature: Sampling temperature; 0 is greedy.
        limit: Only the first so many problems; 0 is all.
        seed: Seeds every random choice.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        trajectories: One row a trajectory.
        page: What was sampled.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("rollout", arguments)
