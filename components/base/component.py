"""The KFP face of the stage base."""

from kfp import dsl
from posttrain.components.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def base(
    uri: str,
    policy: dsl.Output[dsl.Model],
    page: dsl.Output[dsl.HTML],
    settings: dict = {},
    name: str = "",
):
    """Bring a policy in from outside: fetch, refuse what must not be loaded, fingerprint, record.

    Args:
        uri: A Hugging Face model directory: a path, file:// or s3://bucket/prefix.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        policy: The policy, with its record.
        page: The policy's fingerprint.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("base", arguments)
