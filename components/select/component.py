"""The KFP face of the stage select."""

from kfp import dsl
from posttrain.components.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def select(
    evaluation: dsl.Input[dsl.Dataset],
    candidates: dsl.Input[dsl.Dataset],
    problems: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    keep: list = ["sometimes"],
    settings: dict = {},
    name: str = "",
):
    """Keep the problems that a policy never, sometimes or always gets right.

    Args:
        evaluation: An evaluation of these very problems.
        candidates: The problems to select from.
        keep: Which to keep: never, sometimes, always.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        problems: The problems that were kept.
        page: How many problems are never, sometimes and always right.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("select", arguments)
