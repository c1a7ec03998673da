"""The KFP face of the stage recall."""

from kfp import dsl
from posttrain.components.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def recall(
    uri: str,
    kind: str,
    artifact: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    optional: bool = False,
    settings: dict = {},
    name: str = "",
):
    """Bring back an artifact that an earlier run made, with its record and lineage.

    Args:
        uri: A finished artifact's folder: a path, file:// or s3://bucket/prefix.
        kind: What it has to be: policy, problems, trajectories, evaluation, reward_model or process_reward_model.
        optional: An empty uri is no mistake: nothing is brought in.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        artifact: The artifact as it was made.
        page: What made it.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("recall", arguments)
