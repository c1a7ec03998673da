"""The KFP face of the stage recommend."""

from kfp import dsl
from posttrain.components.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def recommend(
    diagnosis: dsl.Input[dsl.Artifact],
    recommendation: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    previous: dsl.Input[dsl.Artifact] = None,
    thresholds: dict = {},
    settings: dict = {},
    name: str = "",
):
    """Turn a diagnosis into the next steps: the rule that holds, its evidence, a recipe that can be run.

    Args:
        diagnosis: What was measured.
        previous: The recommendation of the round before.
        thresholds: Other bounds of the rules, by name.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        recommendation: The rule, its evidence, and the next steps as recipe.yaml.
        page: What to do next and why, and what would change it.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("recommend", arguments)
