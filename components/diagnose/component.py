"""The KFP face of the stage diagnose."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def diagnose(
    evaluation: dsl.Input[dsl.Dataset],
    diagnosis: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    policy: dsl.Input[dsl.Model] = None,
    before_1: dsl.Input[dsl.Dataset] = None,
    before_2: dsl.Input[dsl.Dataset] = None,
    before_3: dsl.Input[dsl.Dataset] = None,
    before_4: dsl.Input[dsl.Dataset] = None,
    before_5: dsl.Input[dsl.Dataset] = None,
    before_6: dsl.Input[dsl.Dataset] = None,
    before_7: dsl.Input[dsl.Dataset] = None,
    training: dsl.Input[dsl.Dataset] = None,
    anchors_1: dsl.Input[dsl.Dataset] = None,
    anchors_2: dsl.Input[dsl.Dataset] = None,
    anchors_3: dsl.Input[dsl.Dataset] = None,
    anchors_4: dsl.Input[dsl.Dataset] = None,
    anchors_5: dsl.Input[dsl.Dataset] = None,
    anchors_6: dsl.Input[dsl.Dataset] = None,
    anchors_7: dsl.Input[dsl.Dataset] = None,
    teacher: dsl.Input[dsl.Dataset] = None,
    scaffold: dsl.Input[dsl.Dataset] = None,
    original: dsl.Input[dsl.Model] = None,
    demos: dsl.Input[dsl.Dataset] = None,
    preferences: dsl.Input[dsl.Dataset] = None,
    reward_model: dsl.Input[dsl.Model] = None,
    audit: dsl.Input[dsl.Dataset] = None,
    thresholds: dict = {},
    settings: dict = {},
    name: str = "",
):
    """Find what holds a policy back: every signal with its interval, by slice, and the rule each slice comes under.

    Args:
        evaluation: Of the policy in question.
        policy: That policy, to score given texts under it.
        before_1: An evaluation of the policy before its last stage, same problems.
        before_2: Another earlier one; the nearest in the lineage is compared with.
        before_3: Another earlier one; the nearest in the lineage is compared with.
        before_4: Another earlier one; the nearest in the lineage is compared with.
        before_5: Another earlier one; the nearest in the lineage is compared with.
        before_6: Another earlier one; the nearest in the lineage is compared with.
        before_7: Another earlier one; the nearest in the lineage is compared with.
        training: An evaluation of the policy on problems that rewards come from.
        anchors_1: The first evaluation on problems that must not get worse.
        anchors_2: A later one; the policy's own is found among them.
        anchors_3: A later one; the policy's own is found among them.
        anchors_4: A later one; the policy's own is found among them.
        anchors_5: A later one; the policy's own is found among them.
        anchors_6: A later one; the policy's own is found among them.
        anchors_7: A later one; the policy's own is found among them.
        teacher: The teacher's evaluation, same problems.
        scaffold: An evaluation with search or hints, same problems.
        original: An earlier policy that could be brought back.
        demos: Demonstrations at hand.
        preferences: Preferences at hand.
        reward_model: A reward model at hand.
        audit: Completions with a verifier and a trusted label.
        thresholds: Other bounds of the rules, by name.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        diagnosis: Signals and findings, by slice.
        metrics: The signals that runs are compared by.
        page: What holds the policy back, with plots.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("diagnose", arguments)
