"""A TrainJob is run to its end whatever Kubernetes does meanwhile, told of in one log, and never left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from posttrain.errors import JobError, ServerError
from posttrain.kubeflow import trainjobs
from posttrain.kubeflow.cluster import Cluster
from posttrain.kubeflow.connection import Refused
from posttrain.kubeflow.trainjobs import run_job
from posttrain.progress import Progress
from posttrain.storage import retries
from tests.kubeflow.kubernetes import Held, kubernetes

NAME = "sft-1"
OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "stage", "uid": "u-2"}
Step = Callable[[Held], Any]


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cluster, Held]]:
    monkeypatch.setattr(retries, "LONGEST", 0.01)  # seconds between tries
    monkeypatch.setattr(trainjobs, "_POLL", 0.0)
    with kubernetes() as (cluster, held):
        yield cluster, held


def manifest() -> dict[str, Any]:
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": NAME, "ownerReferences": [OWNER]},
        "spec": {"trainer": {"numNodes": 2}},
    }


def run(there: tuple[Cluster, Held], *story: Step) -> None:
    cluster, held = there
    held.story = list(story)
    run_job(cluster, manifest(), Progress("sft"))


def says(pod: str, *lines: str) -> Step:
    return lambda held: held.logs.setdefault(pod, []).extend(lines)


def node(rank: int, **state: Any) -> Step:
    return lambda held: held.node(rank, **state)


def ends(kind: str, reason: str = "", message: str = "") -> Step:
    return lambda held: held.ends(kind, reason, message)


def line(second: str, text: str) -> str:
    return f"2026-01-01T00:00:{second}Z {text}"


TRAINED = (
    node(0),
    says("node-0", line("01", "step 1"), line("01.5", "step 2")),
    node(1),
    says("node-1", line("02", "of no interest")),
    says("node-0", line("02", "step 3")),
    node(0, code=0),
)


@pytest.mark.parametrize("failing", [0.0, 0.4])
def test_a_job_is_made_once_followed_and_removed(
    failing: float, there: tuple[Cluster, Held], capsys: pytest.CaptureFixture[str]
) -> None:
    there[1].failing = failing
    run(there, *TRAINED)
    assert capsys.readouterr().out.split("\n") == ["step 1", "step 2", "step 3", ""]
    assert len(there[1].created) == 1
    assert there[1].jobs == {}


def test_a_node_that_is_started_again_is_followed_on(
    there: tuple[Cluster, Held], capsys: pytest.CaptureFixture[str]
) -> None:
    def again(held: Held) -> None:
        held.logs["node-0/previous"] = [*held.logs["node-0"], line("02", "killed")]
        held.logs["node-0"] = [line("09", "going on")]
        held.node(0, tries=1, last=137)

    run(there, node(0), says("node-0", line("01", "step 1")), node(0), again, node(0, code=0))
    told = capsys.readouterr()
    assert told.out.split() == ["step", "1", "killed", "going", "on"]
    assert "[sft] node 0 ended with 137 (OOMKilled)\n" in told.err


def test_the_job_of_an_earlier_try_is_gone_on_with(there: tuple[Cluster, Held]) -> None:
    earlier = manifest()
    earlier["metadata"]["ownerReferences"] = [OWNER | {"uid": "u-1"}]
    there[1].jobs[NAME] = earlier
    run(there, lambda held: None, *TRAINED)
    assert there[1].created == []
    assert earlier["metadata"]["ownerReferences"] == [OWNER]


def test_a_job_that_failed_or_is_on_its_way_out_is_made_anew(there: tuple[Cluster, Held]) -> None:
    there[1].jobs[NAME] = manifest()
    there[1].ends("Failed")
    run(there, lambda held: None, *TRAINED)
    assert len(there[1].created) == 1


@pytest.mark.parametrize(
    ("story", "code", "said"),
    [
        (
            [node(0), node(1, code=2), says("node-1", line("01", "error: data: no rows"))],
            2,
            "ended with 2: data: no rows",
        ),
        ([node(0, code=76), says("node-0", line("01", "error: fenced"))], 76, "node 0 ended with 76: fenced"),
        ([node(0, code=1), node(1, code=137), ends("Failed")], 75, "node 1 ended with 137 (OOMKilled)"),
        ([node(0, code=1), says("node-0", line("01", "KeyError: 1")), ends("Failed")], 1, "KeyError: 1"),
        ([node(0), ends("Failed", "DeadlineExceeded", "too\nlong")], 2, "too long; raise scheduling.timeout_hours"),
        ([node(0), ends("Failed", "FailedJobs", "lost")], 75, "FailedJobs: lost"),
        ([node(0), lambda held: held.jobs.clear()], 75, "removed by somebody"),
    ],
    ids=["mistake", "fenced", "killed", "bug", "too long", "lost", "removed"],
)
def test_a_failure_is_one_line_with_the_code_of_what_failed_first(
    story: list[Step], code: int, said: str, there: tuple[Cluster, Held]
) -> None:
    # What a pod says is there before it is seen to have ended.
    with pytest.raises(JobError, match=r"^TrainJob sft-1") as failed:
        run(there, *sorted(story, key=lambda step: "says" not in step.__qualname__))
    assert failed.value.exit_code == code
    assert said in str(failed.value)
    assert there[1].jobs == {}


def test_the_other_nodes_last_lines_are_shown_when_it_failed(
    there: tuple[Cluster, Held], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(JobError):
        run(there, says("node-1", line("01", "boom")), node(0), node(1, code=1), ends("Failed"))
    assert "[node 1] boom\n" in capsys.readouterr().out


def test_what_a_node_waits_for_is_said_once(there: tuple[Cluster, Held], capsys: pytest.CaptureFixture[str]) -> None:
    def unplaced(held: Held) -> None:
        held.node(0)
        why = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: Insufficient nvidia.com/gpu"}
        held.pods["node-0"]["status"] = {"phase": "Pending", "conditions": [why]}

    run(there, unplaced, unplaced, node(0, code=0))
    assert capsys.readouterr().err.count("node 0 waits: 0/3 nodes: Insufficient nvidia.com/gpu") == 1


def test_who_is_told_to_end_removes_the_job(there: tuple[Cluster, Held]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        run(there, node(0), lambda held: os.kill(os.getpid(), signal.SIGTERM), *TRAINED * 20)
    assert ended.value.code == 143
    assert there[1].jobs == {}
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((403, "may not create trainjobs"), "rbac.trainJobs"),
        ((404, "no such kind"), "is Kubeflow Trainer 2 installed"),
        ((403, "admission webhook denied the request: bad env"), "bad env$"),
    ],
)
def test_what_kubernetes_refuses_is_one_line(refusal: tuple[int, str], said: str, there: tuple[Cluster, Held]) -> None:
    there[1].refusal = refusal
    with pytest.raises(Refused, match=said) as refused:
        run(there)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


def test_a_server_that_stays_away_may_come_back(there: tuple[Cluster, Held]) -> None:
    there[1].failing, there[0].patience = 1.0, 0.05
    with pytest.raises(ServerError) as away:
        run(there)
    assert away.value.exit_code == 75
