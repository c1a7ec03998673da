"""The KFP face of the stage contrast."""

from kfp import dsl
from posttrain.components.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def contrast(
    candidates: dsl.Input[list[dsl.Dataset]],
    base: dsl.Input[dsl.Dataset],
    contrast: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    seed: int = 0,
    settings: dict = {},
    name: str = "",
):
    """Compare candidates measured on the same problems, each with the base and with the best, paired.

    Args:
        candidates: Evaluations of the candidates, collected from a ParallelFor.
        base: The base's evaluation.
        seed: Seeds every random choice.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        contrast: The ranking as JSON.
        metrics: pass@1 of every candidate.
        page: The ranking with paired intervals.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("contrast", arguments)
