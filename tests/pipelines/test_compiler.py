"""The compiled pipelines: complete defaults, wiring, and the golden one."""

import difflib
import os
import re
from pathlib import Path

import pytest
import yaml
from posttrain.components.catalogue import load_stages
from posttrain.pipelines.ablation import compile_ablation
from posttrain.pipelines.compiler import compile_recipe
from posttrain.pipelines.scheduling import CHECKPOINTS, RUN_TIME, Scheduling

from posttrain import __version__
from posttrain.recipes.load import load_recipe, named_recipes, parse_recipe
from posttrain.recipes.loops import diagnose_recipe, improve_recipe
from posttrain.recipes.schema import as_list
from tests.pipelines.compiled import SMALL, Compiled, origin

pytestmark = pytest.mark.xdist_group("kfp")

GOLDEN = Path(__file__).parent / "golden"
STAGES = load_stages()


def test_every_stage_is_a_task(compiled):
    assert compiled.tasks.keys() == compiled.recipe.stages.keys()
    for name, (task, _) in compiled.tasks.items():
        assert task["inputs"]["parameters"]["name"]["runtimeValue"]["constant"] == name


def test_every_parameter_is_described_and_only_the_recipes_own_are_required(compiled):
    inputs = compiled.inputs()
    assert [name for name, entry in inputs.items() if not entry.get("description")] == []
    required = {name for name, entry in inputs.items() if not entry.get("isOptional")}
    assert required == {name for name, entry in compiled.recipe.inputs.items() if entry.default is None}
    expected = {*compiled.recipe.inputs, *(f"settings_{name}" for name in compiled.tunable())}
    expected |= {*RUN_TIME, *CHECKPOINTS}
    assert inputs.keys() == expected


def test_the_default_of_a_stages_settings_is_complete_and_valid(compiled):
    for name, spec in compiled.tunable().items():
        default = compiled.inputs()[f"settings_{name}"]["defaultValue"]
        fields = compiled.stage(name).settings.model_fields
        shared = {"also"} if len(spec.parent_names()) > len(set(spec.parent_names())) else set()
        outside = {"name", "role", "also", *CHECKPOINTS} | spec.bound().keys()
        assert default.keys() == (fields.keys() - outside) | shared
        own = {key: value for key, value in spec.settings.items() if key not in spec.bound()}
        assert {key: default[key] for key in own} == own
        checked = compiled.stage(name).settings(**(default | spec.bound()))
        assert {key: getattr(checked, key) for key in own} == own


def test_settings_inputs_and_roles_reach_their_tasks(compiled):
    for name, spec in compiled.recipe.stages.items():
        task, _ = compiled.tasks[name]
        if name in compiled.tunable():
            assert origin(task, "settings") == f"settings_{name}"
        assert {key: origin(task, key) for key in spec.bound()} == spec.bound()
        if spec.role:
            assert task["inputs"]["parameters"]["role"]["runtimeValue"]["constant"] == spec.role


def test_where_checkpoints_go_reaches_every_stage_that_trains_and_no_other(compiled):
    told = {}
    for name, (task, _) in compiled.tasks.items():
        given = task["inputs"]["parameters"].keys() & CHECKPOINTS.keys()
        assert {key: origin(task, key) for key in given} == {key: key for key in given}
        told[name] = given
    trains = {name for name in compiled.recipe.stages if compiled.stage(name).trains}
    assert trains
    assert {name: keys for name, keys in told.items() if keys} == {name: CHECKPOINTS.keys() for name in trains}


@pytest.mark.parametrize(("name", "stages"), [("improve", ["follow"]), ("diagnose", []), ("ablation", ["follow"])])
def test_a_pipeline_that_chooses_its_stages_tells_the_pod_that_runs_them(name, stages, tmp_path):
    file = tmp_path / "pipeline.yaml"
    two = Scheduling(nodes=2)
    if name == "ablation":
        compile_ablation(file, two)
    else:
        compile_recipe(improve_recipe(2) if name == "improve" else diagnose_recipe(), file, two)
    spec = next(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    dags = [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]
    tasks = [task for dag in dags for task in dag["tasks"].values() if "executorLabel" in component(spec, task)]
    told = [task for task in tasks if "checkpoint_uri" in task["inputs"]["parameters"]]
    assert {re.sub(r"-\d+$", "", task["componentRef"]["name"]) for task in told} == {f"comp-{s}" for s in stages}
    assert all(origin(task, key) == key for task in told for key in CHECKPOINTS)
    assert [task for task in tasks if "nodes" in task["inputs"]["parameters"]] == told
    for task in told:  # it samples between the stages that other pods train
        executor = spec["deploymentSpec"]["executors"][component(spec, task)["executorLabel"]]
        assert "accelerator" in executor["container"]["resources"]
    assert bool(spec["root"]["inputDefinitions"]["parameters"].keys() & CHECKPOINTS.keys()) is bool(stages)


def component(spec, task):
    return spec["components"][task["componentRef"]["name"]]


def test_a_stages_own_place_for_checkpoints_wins(tmp_path):
    recipe = parse_recipe(SMALL.replace("epochs: 7", "epochs: 7, checkpoint_seconds: 30"), "small", STAGES)
    own = Compiled(recipe, tmp_path / "small.yaml").inputs()["settings_tuned"]["defaultValue"]
    assert own["checkpoint_seconds"] == 30
    assert own.keys().isdisjoint({"checkpoint_uri", "checkpoint_steps"})


def test_parents_are_wired_as_the_recipe_says(compiled):
    for name, spec in compiled.recipe.stages.items():
        task, _ = compiled.tasks[name]
        artifacts = dict(task["inputs"].get("artifacts", {}))
        also = compiled.settings(name).get("also", {})
        for role, given in spec.parents.items():
            many, left = compiled.stage(name).parents[role].most > 1, 0
            for number, parent in enumerate([given] if isinstance(given, str) else given, start=1):
                if other := also.pop(f"{role}_{number}" if many else role, None):
                    assert parent in as_list(spec.parents[other])
                    continue
                left += 1
                source = artifacts.pop(f"{role}_{left}" if many else role)
                assert producer(compiled, source) == (parent, compiled.stage(parent).output)
        assert (artifacts, also) == ({}, {})


def producer(compiled, source):
    """(stage, output) that an artifact comes from, through a condition's group if there is one."""
    while "componentInputArtifact" in source:
        channel = source["componentInputArtifact"]
        groups = compiled.spec["root"]["dag"]["tasks"].values()
        source = next(
            task["inputs"]["artifacts"][channel] for task in groups if channel in task["inputs"].get("artifacts", {})
        )
    made = source["taskOutputArtifact"]
    task = compiled.spec["root"]["dag"]["tasks"][made["producerTask"]]
    return task["taskInfo"]["name"], made["outputArtifactKey"]


def test_a_stage_that_waits_for_a_gate_runs_on_its_verdict_only(compiled):
    waiting = {name: spec.when for name, spec in compiled.recipe.stages.items() if spec.when}
    conditions = [
        task["triggerPolicy"]["condition"]
        for task in compiled.spec["root"]["dag"]["tasks"].values()
        if "triggerPolicy" in task
    ]
    assert len(conditions) == len(waiting)
    for when in waiting.values():
        for gate, verdict in when.items():
            label = compiled.tasks[gate][1].removeprefix("exec-")
            assert f"inputs.parameter_values['pipelinechannel--{label}-Output'] == '{verdict}'" in conditions


def test_an_inputs_default_is_the_pipelines(small):
    inputs = small().inputs()
    assert inputs["data"]["defaultValue"] == "demos.jsonl"
    assert inputs["settings_tuned"]["defaultValue"]["epochs"] == 7
    assert "defaultValue" not in inputs["base"]


def test_compiling_twice_gives_the_same_bytes(small, tmp_path):
    small()
    first = (tmp_path / "small.yaml").read_bytes()
    small()
    assert (tmp_path / "small.yaml").read_bytes() == first


def structure(compiled):
    """What a pipeline is, without what only KFP's version or ours changes in it; one entry for tasks of one stage."""
    spec = {key: compiled.spec[key] for key in ("pipelineInfo", "schemaVersion", "root")}
    spec["components"] = by_stage(compiled.spec["components"])
    spec["resources"] = by_stage({name: entry.get("resources", {}) for name, entry in compiled.containers.items()})
    spec["pods"] = by_stage(compiled.pods)
    return yaml.safe_dump(spec, allow_unicode=True, width=120).replace(f":{__version__}", ":VERSION")


def by_stage(entries):
    return {re.sub(r"-\d+$", "", name): {**entry, "executorLabel": ""} for name, entry in entries.items()}


@pytest.mark.parametrize("compiled", ["sft-rl-distil"], indirect=True)
def test_the_pipeline_is_the_golden_one(compiled):
    """After a change on purpose: `make goldens`, and read the diff."""
    golden = GOLDEN / f"{compiled.recipe.name}.yaml"
    if os.environ.get("POSTTRAIN_REWRITE_GOLDEN") and os.environ.get("CI", "") not in ("true", "1"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(structure(compiled), encoding="utf-8")
    assert golden.is_file(), "no golden pipeline: make goldens"
    made, wanted = structure(compiled), golden.read_text(encoding="utf-8")
    changed = difflib.unified_diff(wanted.splitlines(), made.splitlines(), "golden", "compiled", n=2, lineterm="")
    assert yaml.safe_load(made) == yaml.safe_load(wanted), "\n".join(["make goldens", *list(changed)[:60]])


@pytest.mark.parametrize("name", [*named_recipes(), "improve"])
def test_no_task_is_given_one_artifact_twice(name: str, tmp_path: Path) -> None:
    """Kubeflow's metadata store refuses it, and the driver fails; the setting `also` says the other role."""
    stages = load_stages()
    recipe = improve_recipe(3) if name == "improve" else load_recipe(name, stages)
    compiled = Compiled(recipe, tmp_path / "pipeline.yaml")
    for task_name, (task, _) in compiled.tasks.items():
        given = [str(value) for value in task.get("inputs", {}).get("artifacts", {}).values()]
        assert len(given) == len(set(given)), task_name
    for stage, entry in recipe.stages.items():
        twice = len(entry.parent_names()) > len(set(entry.parent_names()))
        assert bool(compiled.settings(stage).get("also")) is twice


def test_a_candidate_is_called_by_its_label(tmp_path: Path) -> None:
    """`.name` of a loop's item is KFP's own variable, and every candidate would be called alike."""
    compile_ablation(tmp_path / "ablation.yaml")
    spec = next(yaml.safe_load_all((tmp_path / "ablation.yaml").read_text(encoding="utf-8")))
    (loop,) = [c["dag"] for name, c in spec["components"].items() if name.startswith("comp-for-loop")]
    named = [
        task["inputs"]["parameters"]["name"]
        for task in loop["tasks"].values()
        if "evaluate" in task["componentRef"]["name"]
    ]
    assert [entry["componentInputParameter"] for entry in named] == ["pipelinechannel--candidates-loop-item"]
    assert [entry["parameterExpressionSelector"] for entry in named] == ['parseJson(string_value)["label"]']
