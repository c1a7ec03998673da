"""The KFP face of the stage prepare."""

from kfp import dsl
from posttrain.components.images import CONTROL


@dsl.component(base_image=CONTROL, install_kfp_package=False)
def prepare(
    uri: str,
    kind: str,
    data: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    held_out: dsl.Input[dsl.Dataset] = None,
    replay: dsl.Input[dsl.Dataset] = None,
    source: str = "",
    replay_share: float = 0.5,
    limit: int = 0,
    seed: int = 0,
    settings: dict = {},
    name: str = "",
):
    """Validate, deduplicate, decontaminate and mix data; everything dropped is counted.

    Args:
        held_out: Problems whose prompts must not be trained on.
        replay: Earlier trajectories to mix in against forgetting.
        uri: A .jsonl, .json or .parquet file or a folder of them: a path, file:// or s3://.
        kind: What the rows are: problems or trajectories.
        source: Where the rows come from, for the record; unset is the file's name.
        replay_share: Share of replay rows in the result, if replay is given.
        limit: Keep at most so many rows, chosen at random; 0 is all.
        seed: Seeds every random choice.
        settings: Any other setting of the stage, by name; wins over the parameters above.
        name: The stage's name in its recipe, for the record.

    Returns:
        data: Problems or trajectories, with their record.
        page: What was read, kept and dropped, by reason.
    """
    arguments = dict(locals())
    from posttrain.components.task import run_task

    run_task("prepare", arguments)
