"""What a run's pod that failed said last, asked of Kubernetes."""

import pytest

from posttrain.kubeflow.pods import _last_words, error_in
from tests.kubeflow.kubernetes import kubernetes

RUN = {"pipeline/runid": "run-1", "pipelines.kubeflow.org/v2_component": "true"}


def pod(held, name, phase, start, log, labels=RUN):
    held.pods[name] = {
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": []},
        "status": {"phase": phase, "startTime": start},
    }
    held.logs[name] = [f"2026-01-01T00:00:00Z {line}" for line in log]


def test_the_pod_that_failed_last_is_asked():
    with kubernetes() as (cluster, held):
        assert _last_words(cluster, "run-1") == ""
        pod(held, "first", "Failed", "2026-01-01T00:00:01Z", ["[a] DataError: first"])
        pod(held, "last", "Failed", "2026-01-01T00:00:02Z", ["[b] DataError: last", "time=… launcher: exit status 2"])
        pod(held, "fine", "Succeeded", "2026-01-01T00:00:03Z", ["[c] DataError: fine"])
        pod(
            held, "other", "Failed", "2026-01-01T00:00:04Z", ["[d] DataError: other"], RUN | {"pipeline/runid": "run-2"}
        )
        assert _last_words(cluster, "run-1") == "b: DataError: last"


def test_a_pod_that_was_killed_said_nothing():
    with kubernetes() as (cluster, held):
        pod(held, "killed", "Failed", "2026-01-01T00:00:01Z", ["[a] step 1"])
        assert _last_words(cluster, "run-1") == "1 pods failed without a word"


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (["[tuned] step 3", "[tuned] ContractError: template differs", "I0101 launcher"], "tuned: ContractError: t"),
        (["Traceback", "  File", "RuntimeError: CUDA out of memory"], "RuntimeError: CUDA out of memory"),
        (["nothing to see"], ""),
    ],
)
def test_the_error_of_a_log(log, said):
    assert error_in(log).startswith(said)
