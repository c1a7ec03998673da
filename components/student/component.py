"""The KFP face of the stage student."""

from kfp import dsl
from posttrain.components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def student(
    teacher: dsl.Input[dsl.Model],
    policy: dsl.Output[dsl.Model],
    page: dsl.Output[dsl.HTML],
    layers: int = 0,
    config: dict = {},
    max_ratio: float = 0.5,
    seed: int = 0,
    settings: dict = {},
    name: str = "",
    role: str = "",
):
    """Make a smaller student from a teacher: fewer layers, narrower if asked, weights taken over.

    Args:
        teacher: The policy to shrink.
        layers: Decoder layers to keep; 0 is as many as max_ratio allows.
        config: Other smaller config values, as intermediate_size.
        max_ratio: Largest allowed share of the teacher's parameters.
        seed: Seeds every random choice.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.
        role: The role it is meant to play: expansion, reshaping or consolidation.

    Returns:
        policy: The student, with its record.
        page: The student's fingerprint.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("student", arguments)
