"""The KFP face of the stage conclude."""

from kfp import dsl
from posttrain.components.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def conclude(
    registry: str,
    model: str,
    run: str,
    conclusion: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    link: str = "",
    settings: dict = {},
    name: str = "",
):
    """Say what came of a retraining, by a webhook if there is one, however the run ended.

    Args:
        registry: The registry: a path, file:// or s3://bucket/prefix.
        model: The model's name in it.
        run: The run's id.
        link: Address of the Kubeflow UI, for the message.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        conclusion: What came of the run, and why.
        metrics: Whether a new champion was registered.
        page: What came of the run, and why.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("conclude", arguments)
