"""The KFP face of the stage merge."""

from kfp import dsl
from posttrain.components.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def merge(
    policies_1: dsl.Input[dsl.Model],
    policy: dsl.Output[dsl.Model],
    page: dsl.Output[dsl.HTML],
    base: dsl.Input[dsl.Model] = None,
    policies_2: dsl.Input[dsl.Model] = None,
    policies_3: dsl.Input[dsl.Model] = None,
    policies_4: dsl.Input[dsl.Model] = None,
    policies_5: dsl.Input[dsl.Model] = None,
    policies_6: dsl.Input[dsl.Model] = None,
    policies_7: dsl.Input[dsl.Model] = None,
    policies_8: dsl.Input[dsl.Model] = None,
    method: str = "linear",
    weights: list = [],
    density: float = 0.2,
    seed: int = 0,
    settings: dict = {},
    name: str = "",
    role: str = "",
):
    """Merge policies of one family in weight space, without a gradient.

    Args:
        policies_1: The first policy; it gives config and tokenizer.
        base: What they were trained from (task_arithmetic, ties, dare).
        policies_2: Policy 2.
        policies_3: Policy 3.
        policies_4: Policy 4.
        policies_5: Policy 5.
        policies_6: Policy 6.
        policies_7: Policy 7.
        policies_8: Policy 8.
        method: linear, slerp, task_arithmetic, ties or dare.
        weights: One for each policy: shares of an average, or scales of task vectors; empty is 1 each.
        density: Share of each task vector that ties or dare keep.
        seed: Seeds every random choice.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.
        role: The role it is meant to play: expansion, reshaping or consolidation.

    Returns:
        policy: The merged policy, with its record.
        page: What was merged from what.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("merge", arguments)
