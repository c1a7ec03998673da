"""The KFP face of the stage pairs."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def pairs(
    trajectories: dsl.Input[dsl.Dataset],
    preferences: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    weaker: dsl.Input[dsl.Dataset] = None,
    reward_model: dsl.Input[dsl.Model] = None,
    learner: dsl.Input[dsl.Model] = None,
    method: str = "best_worst",
    min_margin: float = 0.0,
    max_pairs_per_problem: int = 1,
    seed: int = 0,
    settings: dict = {},
    name: str = "",
):
    """Build preference pairs from trajectories: a better and a worse answer to the same prompt.

    Args:
        trajectories: Scored answers, several a problem, as verify makes.
        weaker: A weaker policy's answers to the same problems (delta).
        reward_model: Ranks the answers in place of their rewards.
        learner: Who will learn from the pairs: its distance from their sampler is reported.
        method: best_worst, margin (largest differences first), random, or delta (stronger against weaker sampler).
        min_margin: Smallest difference of the scores; 0 is any difference.
        max_pairs_per_problem: Keep at most so many pairs a problem; 0 is all.
        seed: Seeds every random choice.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        preferences: Rows with prompt, chosen and rejected.
        metrics: Share of problems with a pair, mean difference of the scores, distance from the learner.
        page: What was paired and what had no contrast.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("pairs", arguments)
