"""The compiled pipelines: complete defaults, scheduling on every executor, wiring, and the golden one."""

import difflib
import os
import re
from pathlib import Path

import pytest
import yaml
from posttrain.components.catalogue import load_stage, load_stages
from posttrain.components.images import CONTROL, TRAIN
from posttrain.pipelines.ablation import compile_ablation
from posttrain.pipelines.compiler import compile_recipe, is_tunable
from posttrain.pipelines.scheduling import CHECKPOINTS, RUN_TIME, Scheduling, read_scheduling

from posttrain import __version__
from posttrain.errors import ConfigError
from posttrain.recipes.load import load_recipe, named_recipes, parse_recipe
from posttrain.recipes.loops import diagnose_recipe, improve_recipe
from posttrain.recipes.schema import as_list
from posttrain.storage.references import STORE_VARIABLE
from posttrain.training.settings import TrainSettings

pytestmark = pytest.mark.xdist_group("kfp")

GOLDEN = Path(__file__).parent / "golden"
STAGES = load_stages()

SMALL = """
name: small
title: Small
inputs: {base: {help: The policy.}, data: {help: Demonstrations., default: demos.jsonl}}
stages:
  first: {use: base, with: {uri: "${base}"}}
  rows: {use: prepare, with: {uri: "${data}", kind: trajectories}}
  tuned: {use: sft, parents: {init: first, data: rows}, role: expansion, with: {epochs: 7}}
"""


class Compiled:
    """A compiled pipeline, by task."""

    def __init__(self, recipe, file, scheduling=None):
        compile_recipe(recipe, file, scheduling)
        self.recipe = recipe
        self.spec, platform = yaml.safe_load_all(file.read_text(encoding="utf-8"))
        self.pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        self.containers = {name: entry["container"] for name, entry in self.spec["deploymentSpec"]["executors"].items()}
        dags = [self.spec["root"]["dag"], *(c["dag"] for c in self.spec["components"].values() if "dag" in c)]
        # Stage name in the recipe → (task, executor); a condition's group has no executor.
        self.tasks = {}
        for dag in dags:
            for task in dag["tasks"].values():
                component = self.spec["components"][task["componentRef"]["name"]]
                if "executorLabel" in component:
                    self.tasks[task["taskInfo"]["name"]] = (task, component["executorLabel"])

    def stage(self, name):
        return load_stage(self.recipe.stages[name].use)

    def inputs(self):
        return self.spec["root"]["inputDefinitions"]["parameters"]

    def tunable(self):
        return {name: spec for name, spec in self.recipe.stages.items() if is_tunable(name, spec)}

    def settings(self, name):
        """A stage's settings, in the form or fixed."""
        if name in self.tunable():
            return self.inputs()[f"settings_{name}"]["defaultValue"]
        return self.tasks[name][0]["inputs"]["parameters"]["settings"]["runtimeValue"]["constant"]


# Every named recipe is compiled in tests/recipes/test_named.py; these two have all that the compiler can be given.
@pytest.fixture(scope="module", params=["sft-rl-distil", "nemotron-3-ultra"])
def compiled(request, tmp_path_factory):
    file = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    return Compiled(load_recipe(request.param, STAGES), file)


@pytest.fixture
def small(tmp_path):
    recipe = parse_recipe(SMALL, "small", STAGES)
    return lambda **scheduling: Compiled(recipe, tmp_path / "small.yaml", Scheduling(**scheduling))


def origin(task, parameter):
    """The pipeline's parameter that a task's parameter comes from."""
    value = task["inputs"]["parameters"][parameter]
    if "runtimeValue" in value:
        (channel,) = re.findall(r"\{\{\$\.inputs\.parameters\['(.+?)'\]\}\}", value["runtimeValue"]["constant"])
        value = task["inputs"]["parameters"][channel]
    return value["componentInputParameter"].removeprefix("pipelinechannel--")


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
    trains = {name for name in compiled.recipe.stages if issubclass(compiled.stage(name).settings, TrainSettings)}
    assert trains
    assert {name: keys for name, keys in told.items() if keys} == {name: CHECKPOINTS.keys() for name in trains}


@pytest.mark.parametrize(("name", "stages"), [("improve", ["follow"]), ("diagnose", []), ("ablation", ["follow"])])
def test_a_pipeline_that_chooses_its_stages_tells_the_pod_that_runs_them(name, stages, tmp_path):
    file = tmp_path / "pipeline.yaml"
    if name == "ablation":
        compile_ablation(file)
    else:
        compile_recipe(improve_recipe(2) if name == "improve" else diagnose_recipe(), file)
    spec = next(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    dags = [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]
    tasks = [task for dag in dags for task in dag["tasks"].values() if "executorLabel" in component(spec, task)]
    told = [task for task in tasks if "checkpoint_uri" in task["inputs"]["parameters"]]
    assert {re.sub(r"-\d+$", "", task["componentRef"]["name"]) for task in told} == {f"comp-{s}" for s in stages}
    assert all(origin(task, key) == key for task in told for key in CHECKPOINTS)
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


def test_every_executor_is_scheduled(compiled):
    scheduling = Scheduling()
    assert compiled.pods.keys() == {executor for _, executor in compiled.tasks.values()} == compiled.containers.keys()
    for name, (task, executor) in compiled.tasks.items():
        assert not task.get("cachingOptions", {}).get("enableCache", False)
        assert task["retryPolicy"]["maxRetryCount"] == scheduling.retries
        assert task["retryPolicy"]["backoffDuration"] == scheduling.retry_backoff
        # The budget of all attempts: shorter than two timeouts, it would end the retries.
        assert float(task["retryPolicy"]["backoffMaxDuration"].rstrip("s")) > 2 * scheduling.timeout_hours * 3600
        assert origin(task, "base_image") == f"schedule_{compiled.stage(name).image}_image"
        pod = compiled.pods[executor]
        assert pod["activeDeadlineSeconds"] == str(int(scheduling.timeout_hours * 3600))
        assert pod["imagePullPolicy"] == scheduling.pull_policy
        (secret,) = pod["secretAsEnv"]
        assert secret["optional"] is True
        named_by = secret["secretNameParameter"]["componentInputParameter"]
        assert named_by.removeprefix("pipelinechannel--") == "schedule_secret"
        assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", STORE_VARIABLE} <= {
            key["envVar"] for key in secret["keyToEnv"]
        }
        assert all(key["envVar"] == key["secretKey"] for key in secret["keyToEnv"])


def test_only_stages_with_a_model_are_placed(compiled):
    for name, (task, executor) in compiled.tasks.items():
        pod, resources = compiled.pods[executor], compiled.containers[executor].get("resources", {})
        if compiled.stage(name).image == "control":
            assert pod.keys().isdisjoint({"emptyDirMounts", "nodeSelector", "tolerations"})
            assert resources == {}
            continue
        (shm,) = pod["emptyDirMounts"]
        assert (shm["mountPath"], shm["medium"], shm["sizeLimit"]) == ("/dev/shm", "Memory", "16Gi")
        selector = pod["nodeSelector"]["nodeSelectorJson"]
        assert selector == {"componentInputParameter": "schedule_node_selector"}
        tolerations = [entry["tolerationJson"] for entry in pod["tolerations"]]
        assert tolerations == [{"componentInputParameter": "schedule_tolerations"}]
        for parameter, source in (
            ("accelerator_count", "schedule_gpu_count"),
            ("accelerator_type", "schedule_gpu_type"),
            ("cpu_request", "schedule_cpu"),
            ("memory_request", "schedule_memory"),
        ):
            assert origin(task, parameter) == source
        assert resources.keys() >= {"accelerator", "resourceCpuRequest", "resourceMemoryRequest"}


def test_run_time_parameters_have_types_that_the_backend_reads(compiled):
    types = {str: "STRING", dict: "STRUCT", list: "LIST"}
    for name, declared in RUN_TIME.items():
        entry = compiled.inputs()[name]
        assert (name, entry["parameterType"]) == (name, types[declared.type])
        assert entry.get("defaultValue", declared.default) == declared.default
        assert declared.default != ""
    assert compiled.inputs()["schedule_gpu_count"]["defaultValue"] == "1"


def test_images_are_the_releases_own():
    assert RUN_TIME["schedule_control_image"].default == CONTROL
    assert RUN_TIME["schedule_train_image"].default == RUN_TIME["schedule_sample_image"].default == TRAIN
    assert {CONTROL.rpartition(":")[2], TRAIN.rpartition(":")[2]} == {__version__}


def test_an_inputs_default_is_the_pipelines(small):
    inputs = small().inputs()
    assert inputs["data"]["defaultValue"] == "demos.jsonl"
    assert inputs["settings_tuned"]["defaultValue"]["epochs"] == 7
    assert "defaultValue" not in inputs["base"]


def test_compile_time_scheduling_is_applied(small):
    changed = small(retries=0, timeout_hours=0.5, shared_memory="", pull_policy="Always")
    for task, executor in changed.tasks.values():
        assert "retryPolicy" not in task
        assert changed.pods[executor]["activeDeadlineSeconds"] == "1800"
        assert changed.pods[executor]["imagePullPolicy"] == "Always"
        assert "emptyDirMounts" not in changed.pods[executor]
    assert small(shared_memory="2Gi").pods["exec-sft"]["emptyDirMounts"][0]["sizeLimit"] == "2Gi"


def test_a_claim_for_what_is_fetched_is_mounted_where_there_is_a_model(small):
    cached = small(cache_claim="models", cache_size="50GiB")
    for name, (_, executor) in cached.tasks.items():
        holds_model = cached.stage(name).image != "control"
        mounts = cached.pods[executor].get("pvcMount", [])
        variables = {each["name"]: each["value"] for each in cached.containers[executor].get("env", [])}
        assert [mount["mountPath"] for mount in mounts] == ([variables["POSTTRAIN_CACHE"]] if holds_model else [])
        assert variables.get("POSTTRAIN_CACHE_SIZE") == ("50GiB" if holds_model else None)
        assert [mount["pvcNameParameter"]["runtimeValue"]["constant"] for mount in mounts] == ["models"] * holds_model
    assert all("pvcMount" not in pod for pod in small().pods.values())


def test_compiling_twice_gives_the_same_bytes(small, tmp_path):
    small()
    first = (tmp_path / "small.yaml").read_bytes()
    small()
    assert (tmp_path / "small.yaml").read_bytes() == first


def test_on_several_nodes_a_training_stage_waits_and_holds_nothing_itself(small):
    changed = small(nodes=2, runtime="TrainingRuntime/ours", scratch="1Gi", labels={"team": "a"})
    told = changed.tasks["tuned"][0]["inputs"]["parameters"]["nodes"]["runtimeValue"]["constant"]
    given = {name: f"{{{{$.inputs.parameters['pipelinechannel--schedule_{name}']}}}}" for name in ("cpu", "memory")}
    assert told.items() >= {"nodes": 2.0, "runtime": "TrainingRuntime/ours", "scratch": "1Gi", **given}.items()
    assert told["gpus"] == "{{$.inputs.parameters['pipelinechannel--schedule_gpu_count']}}"
    assert told["labels"]["team"] == "a"
    executor = changed.tasks["tuned"][1]
    assert "resources" not in changed.containers[executor]
    pod = changed.pods[executor]
    assert pod.keys() >= {"nodeSelector", "tolerations", "secretAsEnv"}
    assert not pod.keys() & {"genericEphemeralVolume", "emptyDirMounts"}
    assert "nodes" not in changed.tasks["rows"][0]["inputs"]["parameters"]


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ("retrys: 3", "retrys"),
        ("retries: -1", "retries"),
        ("[1", "while parsing"),
        ("timeout_hours: x", "timeout_hours"),
    ],
)
def test_a_wrong_scheduling_file_is_refused_in_one_line(tmp_path, text, mention):
    file = tmp_path / "scheduling.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_scheduling(file)
    line = str(raised.value)
    assert line.startswith(str(file))
    assert mention in line
    assert "\n" not in line


def test_a_scheduling_file_is_read(tmp_path):
    (tmp_path / "scheduling.yaml").write_text("retries: 5\nshared_memory: 1Gi\n")
    assert read_scheduling(tmp_path / "scheduling.yaml") == Scheduling(retries=5, shared_memory="1Gi")
    (tmp_path / "empty.yaml").write_text("")
    assert read_scheduling(tmp_path / "empty.yaml") == read_scheduling(None) == Scheduling()
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        read_scheduling(tmp_path / "missing.yaml")


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
