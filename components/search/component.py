"""The KFP face of the stage search."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def search(
    policy: dsl.Input[dsl.Model],
    problems: dsl.Input[dsl.Dataset],
    traces: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    reward_model: dsl.Input[dsl.Model] = None,
    process_reward_model: dsl.Input[dsl.Model] = None,
    method: str = "majority",
    samples: int = 8,
    max_new_tokens: int = 512,
    temperature: float = 1.0,
    aggregate: str = "min",
    expand: int = 4,
    limit: int = 0,
    seed: int = 0,
    settings: dict = {},
    name: str = "",
):
    """Sample a policy through a scaffold: one trace a problem, and what the search gains over a single sample.

    Args:
        policy: The policy that is searched.
        problems: What to search on.
        reward_model: Scores solutions, for best_of_n and weighted_majority.
        process_reward_model: Scores steps, for beam, best_of_n and weighted_majority.
        method: majority, best_of_n, weighted_majority or beam.
        samples: Budget, full-length samples a problem.
        max_new_tokens: Longest solution in tokens.
        temperature: Sampling temperature.
        aggregate: A solution's score from its steps': min, product, mean or last.
        expand: Beam only; next steps of each kept prefix.
        limit: Only the first so many problems; 0 is all.
        seed: Seeds every random choice.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        traces: The picked solutions, one row a problem.
        metrics: Accuracy of the pick, pass@1, pass@n, the gap, and tokens spent.
        page: The scaffold gap with its interval.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("search", arguments)
