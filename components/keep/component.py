"""The KFP face of the stage keep."""

from kfp import dsl
from posttrain.components.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def keep(
    candidate: dsl.Input[dsl.Model],
    best: dsl.Input[dsl.Model],
    evaluations_1: dsl.Input[dsl.Dataset],
    policy: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    evaluations_2: dsl.Input[dsl.Dataset] = None,
    evaluations_3: dsl.Input[dsl.Dataset] = None,
    evaluations_4: dsl.Input[dsl.Dataset] = None,
    evaluations_5: dsl.Input[dsl.Dataset] = None,
    evaluations_6: dsl.Input[dsl.Dataset] = None,
    evaluations_7: dsl.Input[dsl.Dataset] = None,
    evaluations_8: dsl.Input[dsl.Dataset] = None,
    anchors_first: dsl.Input[dsl.Dataset] = None,
    anchors: dsl.Input[dsl.Dataset] = None,
    provisional: bool = False,
    breadth: float = 0.5,
    max_anchor_loss: float = 0.02,
    seed: int = 0,
    settings: dict = {},
    name: str = "",
):
    """Keep a step or roll it back, by what it changed on the problems that decisions are made on.

    Args:
        candidate: The policy that the step made.
        best: The best policy so far.
        evaluations_1: An evaluation; each policy's own is found among them.
        evaluations_2: Evaluation 2.
        evaluations_3: Evaluation 3.
        evaluations_4: Evaluation 4.
        evaluations_5: Evaluation 5.
        evaluations_6: Evaluation 6.
        evaluations_7: Evaluation 7.
        evaluations_8: Evaluation 8.
        anchors_first: The first round's evaluation on problems that must not get worse.
        anchors: The candidate's, on the same anchors.
        provisional: Hand on a candidate, too, that needs another step to be better.
        breadth: Weight of pass@K in what a policy is worth; pass@1 has the rest.
        max_anchor_loss: Largest tolerated loss of pass@1 on the anchors.
        seed: Seeds every random choice.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        policy: The candidate if it was kept, else the best so far; with its own record.
        metrics: The policy's.
        page: The decision and its numbers.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("keep", arguments)
