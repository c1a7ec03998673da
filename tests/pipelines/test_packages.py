"""Pipelines by name, as a deployment asks for them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from posttrain.pipelines.packages import packages

from posttrain.errors import ConfigError
from posttrain.kubeflow.deployment import Deployment, parameters_of

VERSION = """
from posttrain.pipelines.packages import packages
from posttrain.kubeflow.deployment import Deployment
print(packages(Deployment.model_validate({"pipelines": {"sft-replay": {}}}), "here")[0].version)
"""


def test_a_version_is_its_contents_in_every_process() -> None:
    versions = {
        subprocess.check_output([sys.executable, "-c", VERSION], text=True, env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    }
    assert len(versions) == 1


def test_defaults_reach_the_form_of_every_pipeline_that_has_the_parameter() -> None:
    wanted = Deployment.model_validate(
        {
            "defaults": {"registry": "s3://m/registry", "schedule_gpu_count": "8"},
            "pipelines": {
                "diagnose": {},
                "mine": {
                    "recipe": "sft-replay",
                    "settings": {"sft": {"epochs": 3}},
                    "defaults": {"schedule_gpu_count": "2", "settings_gate": {"min_gain": 0.1}},
                },
            },
        }
    )
    forms = {package.name: parameters_of(package.spec) for package in packages(wanted, "here")}
    assert "registry" not in forms["diagnose"]
    assert forms["diagnose"]["schedule_gpu_count"]["defaultValue"] == "8"
    mine = forms["mine"]
    assert (mine["registry"]["defaultValue"], mine["schedule_gpu_count"]["defaultValue"]) == ("s3://m/registry", "2")
    gate = mine["settings_gate"]["defaultValue"]
    assert gate["min_gain"] == 0.1 and "max_slice_loss" in gate
    assert [p for p in mine if p.startswith("settings_") and mine[p]["defaultValue"].get("epochs") == 3]


@pytest.mark.parametrize(
    ("deployment", "complaint"),
    [
        ({"pipelines": {"sft-repaly": {}}}, "pipelines.sft-repaly: no recipe is called 'sft-repaly'"),
        (
            {"pipelines": {"ablation": {"retrain": True}}},
            "pipelines.ablation: ablation compares recipes and registers none",
        ),
        ({"pipelines": {"diagnose": {"defaults": {"bese": "x"}}}}, "no parameter 'bese'; did you mean 'base'?"),
        ({"pipelines": {"diagnose": {"defaults": {"schedule_gpu_count": 8}}}}, "is int instead of str; quote it"),
        ({"pipelines": {"diagnose": {"settings": {"sft": {}}}}}, "diagnose has no stage 'sft'"),
        ({"pipelines": {"diagnose": {}}, "defaults": {"regsitry": "x"}}, "no pipeline has a parameter 'regsitry'"),
        ({"pipelines": {"diagnose": {}}, "scheduling": {"retrys": 1}}, "scheduling: "),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(deployment: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=r"^here: ") as refused:
        packages(Deployment.model_validate(deployment), "here")
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)
