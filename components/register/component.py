"""The KFP face of the stage register."""

from kfp import dsl
from posttrain.components.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def register(
    policy: dsl.Input[dsl.Model],
    decision: dsl.Input[dsl.Artifact],
    registry: str,
    model: str,
    registration: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    model_registry: str = "",
    promote: str = "proven",
    data_version: str = "",
    run: str = "",
    settings: dict = {},
    name: str = "",
):
    """Register a policy that a gate let through; nothing else gets in.

    Args:
        policy: The candidate.
        decision: A gate's decision about this very policy.
        registry: The registry: a path, file:// or s3://bucket/prefix.
        model: The model's name in it.
        model_registry: URL of a Kubeflow Model Registry that is to list it, too.
        promote: Becomes the champion: proven (if there is none, or the gate compared it with that), always, never.
        data_version: The data that it learned from, noted as decided; empty notes nothing.
        run: The run's id, noted with it.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        registration: Where the policy was registered.
        page: What was registered where.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("register", arguments)
