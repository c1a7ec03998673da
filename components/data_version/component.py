"""The KFP face of the stage data_version."""

from kfp import dsl
from posttrain.components.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def data_version(
    data: str,
    registry: str,
    model: str,
    selection: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    version: dsl.OutputPath(str),
    base_uri: dsl.OutputPath(str),
    problems_uri: dsl.OutputPath(str),
    held_out_uri: dsl.OutputPath(str),
    demos_uri: dsl.OutputPath(str),
    preferences_uri: dsl.OutputPath(str),
    base: str = "",
    problems: str = "",
    held_out: str = "",
    demos: str = "",
    preferences: str = "",
    again: bool = False,
    run: str = "",
    settings: dict = {},
    name: str = "",
) -> str:
    """Find the newest data that no run has decided on, and the champion to start from.

    Args:
        data: Folder of data versions (path, file:// or s3://).
        registry: The registry: a path, file:// or s3://bucket/prefix.
        model: The model's name in it.
        base: The policy to start from while none is registered.
        problems: Training problems, for versions without their own.
        held_out: Held-out problems, for versions without their own.
        demos: Demonstrations, for versions without their own.
        preferences: Preferences, for versions without their own.
        again: Take the newest version even if a run has decided on it.
        run: The run's id, under which its plan is set down.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        selection: What was found.
        metrics: How many versions there are.
        page: What is to be learned from, or why there is nothing new.
        version: The data version, by name and content.
        base_uri: The champion, or the base.
        problems_uri: Training problems.
        held_out_uri: Held-out problems.
        demos_uri: Demonstrations.
        preferences_uri: Preferences.
        Output: Either new or nothing new.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task, write_parameters

    files = {key: arguments.pop(key) for key in ("version", *(key for key in arguments if key.endswith("_uri")))}
    facts = run_task("data_version", arguments).facts
    write_parameters({file: str(facts.get(key.removesuffix("_uri"), "")) for key, file in files.items()})
    return str(facts["verdict"])
