"""Scheduling on every executor: what a run decides, what is fixed when a pipeline is compiled, and its file."""

import pytest
from posttrain.components.images import CONTROL, TRAIN
from posttrain.pipelines.scheduling import RUN_TIME, Scheduling, read_scheduling

from posttrain import __version__
from posttrain.errors import ConfigError
from posttrain.storage.references import STORE_VARIABLE
from tests.pipelines.compiled import origin

pytestmark = pytest.mark.xdist_group("kfp")


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
    with pytest.raises(ConfigError, match=r"missing\.yaml: No such file or directory; check the path"):
        read_scheduling(tmp_path / "missing.yaml")
    (tmp_path / "other.yaml").write_bytes(b"retries: \xaa")
    with pytest.raises(ConfigError, match=r"other\.yaml: not text .*; write YAML in UTF-8"):
        read_scheduling(tmp_path / "other.yaml")
