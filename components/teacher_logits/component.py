"""The KFP face of the stage teacher_logits."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def teacher_logits(
    teacher: dsl.Input[dsl.Model],
    data: dsl.Input[dsl.Dataset],
    trajectories: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    k: int = 64,
    max_length: int = 1024,
    seed: int = 0,
    settings: dict = {},
    name: str = "",
):
    """Store a teacher's likeliest tokens at every token of given completions, for logit distillation.

    Args:
        teacher: The policy whose distributions are stored.
        data: Prompt-completion rows, whoever wrote them.
        k: Tokens stored a position.
        max_length: Longest sequence in tokens; longer rows are cut, as in training.
        seed: Seeds every random choice.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        trajectories: The same rows, with the teacher's distributions beside them.
        metrics: The probability mass that the stored tokens cover.
        page: What was stored.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("teacher_logits", arguments)
