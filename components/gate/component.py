"""The KFP face of the stage gate."""

from kfp import dsl
from posttrain.components.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def gate(
    candidate: dsl.Input[dsl.Dataset],
    champion: dsl.Input[dsl.Dataset],
    decision: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    min_gain: float = 0.0,
    max_slice_loss: float = 0.02,
    max_support_loss: float = 0.05,
    seed: int = 0,
    settings: dict = {},
    name: str = "",
) -> str:
    """Decide from held-out evaluations whether a candidate may replace the champion.

    Args:
        candidate: The candidate's evaluation.
        champion: The champion's evaluation of the same problems.
        min_gain: What the gain in pass@1 must exceed, with its whole interval.
        max_slice_loss: Largest tolerated loss of pass@1 on any slice.
        max_support_loss: Largest tolerated loss of pass@K.
        seed: Seeds every random choice.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        decision: The decision, with its reasons.
        metrics: The paired differences that decided.
        page: The verdict and its numbers.
        Output: The verdict: pass, fail or undecided.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    record = run_task("gate", arguments)
    return str(record.facts["verdict"])
