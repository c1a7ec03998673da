"""The KFP face of the stage report."""

from kfp import dsl
from posttrain.components.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def report(
    evaluations_1: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    decision: dsl.Input[dsl.Artifact] = None,
    evaluations_2: dsl.Input[dsl.Dataset] = None,
    evaluations_3: dsl.Input[dsl.Dataset] = None,
    evaluations_4: dsl.Input[dsl.Dataset] = None,
    evaluations_5: dsl.Input[dsl.Dataset] = None,
    evaluations_6: dsl.Input[dsl.Dataset] = None,
    evaluations_7: dsl.Input[dsl.Dataset] = None,
    evaluations_8: dsl.Input[dsl.Dataset] = None,
    recommendations_1: dsl.Input[dsl.Artifact] = None,
    recommendations_2: dsl.Input[dsl.Artifact] = None,
    recommendations_3: dsl.Input[dsl.Artifact] = None,
    recommendations_4: dsl.Input[dsl.Artifact] = None,
    recommendations_5: dsl.Input[dsl.Artifact] = None,
    recommendations_6: dsl.Input[dsl.Artifact] = None,
    recommendations_7: dsl.Input[dsl.Artifact] = None,
    recommendations_8: dsl.Input[dsl.Artifact] = None,
    settings: dict = {},
    name: str = "",
):
    """One page for the whole run: before and after, support, curves, lineage.

    Args:
        decision: The gate's decision.
        evaluations_1: The first evaluation: the base's.
        evaluations_2: Evaluation 2, in the order of the table.
        evaluations_3: Evaluation 3, in the order of the table.
        evaluations_4: Evaluation 4, in the order of the table.
        evaluations_5: Evaluation 5, in the order of the table.
        evaluations_6: Evaluation 6, in the order of the table.
        evaluations_7: Evaluation 7, in the order of the table.
        evaluations_8: Evaluation 8, in the order of the table.
        recommendations_1: What was recommended in round 1.
        recommendations_2: What was recommended in round 2.
        recommendations_3: What was recommended in round 3.
        recommendations_4: What was recommended in round 4.
        recommendations_5: What was recommended in round 5.
        recommendations_6: What was recommended in round 6.
        recommendations_7: What was recommended in round 7.
        recommendations_8: What was recommended in round 8.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        report: The table as JSON.
        metrics: The last evaluation's numbers.
        page: The report.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("report", arguments)
