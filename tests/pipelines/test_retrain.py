"""The pipeline that repeats a recipe: its form, what depends on new data, and what is said however it ends."""

import pytest
import yaml
from posttrain.components.catalogue import load_stages
from posttrain.pipelines.packages import compile_named
from posttrain.pipelines.scheduling import Scheduling

from posttrain.errors import ConfigError
from posttrain.recipes.load import parse_recipe
from posttrain.recipes.retraining import retraining

pytestmark = pytest.mark.xdist_group("kfp")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    file = tmp_path_factory.mktemp("retrain") / "retrain.yaml"
    compile_named("sft-replay", file, Scheduling(), retrain=True)
    return next(yaml.safe_load_all(file.read_text(encoding="utf-8")))


def component(compiled, start):
    return next(each for name, each in compiled["components"].items() if name.startswith(start))


def test_only_what_nobody_else_knows_is_required(compiled):
    form = compiled["root"]["inputDefinitions"]["parameters"]
    required = {name for name, one in form.items() if "defaultValue" not in one and not one.get("isOptional")}
    assert required == {"data", "registry"}
    assert form.keys().isdisjoint({"run", "data_version"})
    assert all(one["description"] for one in form.values())


def test_nothing_runs_unless_there_is_new_data(compiled):
    tasks = component(compiled, "comp-exit-handler")["dag"]["tasks"]
    looked, learns = tasks["data-version"], next(task for name, task in tasks.items() if name != "data-version")
    assert learns["triggerPolicy"]["condition"].endswith("== 'new'")
    assert looked["inputs"]["parameters"]["run"] == {"runtimeValue": {"constant": "{{$.pipeline_job_uuid}}"}}


def test_what_it_learns_from_is_what_was_found(compiled):
    task = component(compiled, "comp-condition")["dag"]["tasks"]["sft-replay"]
    origins = {name: one.get("componentInputParameter", "") for name, one in task["inputs"]["parameters"].items()}
    for name in ("base", "demos", "held_out"):
        assert origins[name].endswith(f"data-version-{name}_uri")


def test_the_end_is_told_however_it_ends(compiled):
    task = compiled["root"]["dag"]["tasks"]["conclude"]
    assert task["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


def test_a_recipe_without_a_gate_is_not_repeated():
    recipe = parse_recipe(
        "{name: bare, title: Bare, inputs: {base: {help: x}}, stages: {first: {use: base, with: {uri: '${base}'}}}}",
        "bare",
        load_stages(),
    )
    with pytest.raises(ConfigError, match="one stage register behind a gate"):
        retraining(recipe)
