"""A real Kubeflow Model Registry: what it is told by this process, by several at once, and by a run's pod.

POSTTRAIN_CLUSTER_MODEL_REGISTRY names the server, as http://10.200.0.1:8085; model_registry.sh builds and runs one.
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler, dsl
from posttrain.components.catalogue import load_stage
from posttrain.components.gate import gate
from posttrain.components.recall import recall
from posttrain.components.register import register
from posttrain.pipelines.scheduling import Scheduling, schedule

from posttrain.artifacts.record import read_record
from posttrain.errors import ContractError
from posttrain.registry import open_registry
from posttrain.registry import server as registry_server
from posttrain.registry.server import Server
from posttrain.taxonomy import Kind
from tests.cluster.backend import BACKEND, BUCKET, SCHEDULING
from tests.made import based, evaluated, prepared, problem
from tests.registry.conftest import WHEN, decided, made
from tests.tiny import tiny_policy

SERVER = os.environ.get("POSTTRAIN_CLUSTER_MODEL_REGISTRY", "")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not SERVER, reason="no Model Registry is named by POSTTRAIN_CLUSTER_MODEL_REGISTRY"),
    pytest.mark.timeout(1800),
]


@pytest.fixture
def model(request: Any) -> str:
    return f"{request.node.name.replace('_', '-')[:40]}-{time.time_ns()}"


def listed(model: str) -> dict[str, Any]:
    there = Server(SERVER, os.environ)
    return {version.name: version for version in there.versions(there.model(model))}


def champions(model: str) -> list[str]:
    return [name for name, version in listed(model).items() if version.custom_properties["posttrain_champion"]]


def test_versions_champion_and_the_way_back(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_server, "_PAGE", 2)  # more versions than a page has
    registry = open_registry(str(tmp_path / "registry"), SERVER)
    policies = [made(tmp_path / f"policy{n}", Kind.POLICY, bytes([n])) for n in range(5)]
    for n, policy in enumerate(policies):
        decision = decided(tmp_path / f"decision{n}", policies[n - 1].digest if n else "")
        for _ in range(2):  # the second is a retry
            assert registry.register(model, policy, decision, WHEN).promoted
    assert champions(model) == ["v5"]
    registry.roll_back(model, reason="answers in capitals")
    assert champions(model) == ["v4"]
    found = listed(model)
    assert [found[f"v{n}"].custom_properties["posttrain_digest"] for n in range(1, 6)] == [p.digest for p in policies]
    (artifact,) = Server(SERVER, os.environ).artifacts(found["v3"])
    assert artifact.uri == registry.policy_uri(model, 3)
    assert (artifact.model_format_name, artifact.state.value) == ("safetensors", "LIVE")


def test_several_at_once_are_all_listed_and_one_is_champion(model: str, tmp_path: Path) -> None:
    passed = decided(tmp_path / "decision")
    policies = [made(tmp_path / f"policy{n}", Kind.POLICY, bytes([n])) for n in range(6)]

    def one(policy: Any) -> None:
        open_registry(str(tmp_path / "registry"), SERVER).register(model, policy, passed, WHEN, "always")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, policies))
    assert sorted(listed(model)) == [f"v{n}" for n in range(1, 7)]
    assert champions(model) == [f"v{open_registry(str(tmp_path / 'registry')).index(model).champion}"]


def test_a_name_of_another_registry_is_refused(model: str, tmp_path: Path) -> None:
    policies = [made(tmp_path / f"policy{n}", Kind.POLICY, bytes([n])) for n in range(2)]
    passed = decided(tmp_path / "decision")
    open_registry(str(tmp_path / "registry"), SERVER).register(model, policies[0], passed, WHEN)
    with pytest.raises(ContractError, match=r"lists a v1 of .* which .*other does not have; choose another model name"):
        open_registry(str(tmp_path / "other"), SERVER).register(model, policies[1], passed, WHEN)


@pytest.mark.skipif(BACKEND is None, reason="no cluster is named; see tests/cluster/backend.py")
def test_a_pod_gates_registers_and_tells(model: str, tmp_path: Path) -> None:
    assert BACKEND is not None
    problems = prepared(tmp_path / "problems", [problem(n) for n in range(40)])
    old, new = (
        based(tmp_path / "made" / name, tiny_policy(tmp_path / name, "gpt2", seed=seed))
        for seed, name in enumerate(("old", "new"))
    )
    evaluated(tmp_path / "made" / "worse", old, problems, [0] * 40)
    evaluated(tmp_path / "made" / "better", new, problems, [4] * 40)
    place = BACKEND.upload(tmp_path / "made", f"model-registry-{time.time_ns()}")
    registry = f"s3://{BUCKET}/{model}"
    pipeline = tmp_path / "pipeline.yaml"
    compiler.Compiler().compile(_pipeline(place, registry, model), str(pipeline))
    state, tasks = BACKEND.run(pipeline, {}, "model-registry")
    print(json.dumps(tasks, indent=1))
    assert state == "SUCCEEDED"
    told = listed(model)["v1"].custom_properties
    assert (told["posttrain_digest"], told["posttrain_champion"]) == (read_record(new).digest, True)
    assert told["posttrain_verdict"] == "pass" and told["posttrain_gate_gain_pass_1"] == 1.0
    assert told["posttrain_compared_with"] == read_record(old).digest
    assert open_registry(registry).champion(model).digest == read_record(new).digest  # type: ignore[union-attr]


def _pipeline(place: str, registry: str, model: str) -> Any:
    @dsl.pipeline(name="model-registry")
    def pipeline(
        schedule_control_image: str,
        schedule_train_image: str,
        schedule_sample_image: str,
        schedule_gpu_count: str,
        schedule_secret: str,
    ) -> None:
        values = dict(locals())

        def task(made: Any) -> Any:
            schedule(made, load_stage("register"), Scheduling(**SCHEDULING), values)
            return made

        def recalled(name: str, kind: str) -> Any:
            return task(recall(uri=f"{place}/{name}", kind=kind, name=name)).outputs["artifact"]

        candidate, champion = recalled("better", "evaluation"), recalled("worse", "evaluation")
        decision = task(gate(candidate=candidate, champion=champion)).outputs["decision"]
        policy = recalled("new", "policy")
        task(register(policy=policy, decision=decision, registry=registry, model=model, model_registry=SERVER))

    return pipeline
