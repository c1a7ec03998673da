"""The KFP face of the stage follow."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def follow(
    base: dsl.Input[dsl.Model],
    policy: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    problems: dsl.Input[dsl.Dataset] = None,
    held_out: dsl.Input[dsl.Dataset] = None,
    teacher: dsl.Input[dsl.Model] = None,
    original: dsl.Input[dsl.Model] = None,
    recommendation: dsl.Input[dsl.Artifact] = None,
    demos: str = "",
    preferences: str = "",
    recipe: str = "",
    inputs: dict = {},
    stage_settings: dict = {},
    checkpoint_uri: str = "",
    checkpoint_steps: int = 0,
    checkpoint_seconds: float = 600.0,
    nodes: dict = {},
    on_undecided: str = "stop",
    on_failure: str = "fail",
    settings: dict = {},
    name: str = "",
):
    """Take the recommended next step, or run a whole recipe, in one pod.

    Args:
        base: The policy to start from.
        problems: Training problems.
        held_out: Problems that nothing may be trained on.
        teacher: A stronger policy.
        original: An earlier policy to bring back; by default the base.
        recommendation: What to do next.
        demos: The recipe's input demos, as a URI.
        preferences: The recipe's input preferences, as a URI.
        recipe: A recipe as YAML text, or a named one; empty is the recommendation's.
        inputs: Its other inputs that are no parents, as URIs.
        stage_settings: Other settings of its stages, by stage or room; win over the recipe's.
        checkpoint_uri: Where its training stages are kept while they train (s3://…), to go on from; empty is nowhere.
        checkpoint_steps: Optimizer steps between checkpoints; 0 is by time.
        checkpoint_seconds: Seconds between checkpoints, where not by steps.
        nodes: Where TrainJobs do the work of its training stages, and with what; {} is in this pod.
        on_undecided: Where the recommendation is undecided: stop, or lean (take the likelier branch).
        on_failure: Where a step cannot be taken: fail, or hand_on (the policy as it is, and say why).
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        policy: The last stage's policy with its own record; the given one if there was nothing to do.
        metrics: The last stage's.
        page: The stages that ran.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("follow", arguments)
