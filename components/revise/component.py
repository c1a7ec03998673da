"""The KFP face of the stage revise."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def revise(
    policy: dsl.Input[dsl.Model],
    trajectories: dsl.Input[dsl.Dataset],
    revised: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    output: str = "revisions",
    keep_better: bool = False,
    principles: list = [],
    rounds: int = 1,
    max_new_tokens: int = 512,
    temperature: float = 1.0,
    seed: int = 0,
    settings: dict = {},
    name: str = "",
):
    """Have a policy criticise and revise answers; the revisions, or pairs of revision and first answer.

    Args:
        policy: Who criticises and revises.
        trajectories: The first answers, as rollout makes.
        output: What to make: revisions, or pairs of a revision (chosen) and its first answer (rejected).
        keep_better: Keep only rows whose verified score did not fall; needs rows with verifiers.
        principles: Drawn from, one a row and round; empty is a general one.
        rounds: How often each answer is criticised and revised.
        max_new_tokens: Longest critique and longest revision, in tokens.
        temperature: Sampling temperature; 0 is greedy.
        seed: Seeds every random choice.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        revised: One row a revision, or a pair.
        metrics: Verified score before and after with the interval of its change.
        page: What was revised, and examples.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("revise", arguments)
