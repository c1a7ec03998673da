"""The KFP face of the stage evaluate."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def evaluate(
    policy: dsl.Input[dsl.Model],
    problems: dsl.Input[dsl.Dataset],
    evaluation: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    before_1: dsl.Input[dsl.Dataset] = None,
    before_2: dsl.Input[dsl.Dataset] = None,
    before_3: dsl.Input[dsl.Dataset] = None,
    before_4: dsl.Input[dsl.Dataset] = None,
    before_5: dsl.Input[dsl.Dataset] = None,
    before_6: dsl.Input[dsl.Dataset] = None,
    before_7: dsl.Input[dsl.Dataset] = None,
    samples: int = 16,
    max_new_tokens: int = 512,
    temperature: float = 1.0,
    seed: int = 0,
    settings: dict = {},
    name: str = "",
):
    """Measure a policy: n samples a problem, verified; unbiased pass@k and pass^k with intervals.

    Args:
        policy: The policy to measure.
        problems: Held-out problems.
        before_1: An earlier evaluation of the same problems, to compare with.
        before_2: Another one; the nearest in the lineage is compared with.
        before_3: Another one; the nearest in the lineage is compared with.
        before_4: Another one; the nearest in the lineage is compared with.
        before_5: Another one; the nearest in the lineage is compared with.
        before_6: Another one; the nearest in the lineage is compared with.
        before_7: Another one; the nearest in the lineage is compared with.
        samples: Samples a problem; pass@k is estimated up to this k.
        max_new_tokens: Longest completion in tokens.
        temperature: Sampling temperature; 0 is greedy.
        seed: Seeds every random choice.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        evaluation: One row a problem.
        metrics: pass@1, pass@k and more, over all problems.
        page: pass@k curves with bands, and what changed.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("evaluate", arguments)
