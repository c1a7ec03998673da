"""Renders every folder of manifests from its values and the chart; `--check` compares instead."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from posttrain.pipelines.packages import packages

from posttrain.kubeflow.deployment import Package, read_deployment

HERE = Path(__file__).parent
CHART = HERE.parent / "charts" / "posttrain"
OBJECTS, VALUES = "objects.yaml", "values.yaml"
NATIVE = "kubernetes-native"


def folders() -> list[Path]:
    """The base and the overlays."""
    return [HERE / "base", *sorted(path for path in (HERE / "overlays").iterdir() if path.is_dir())]


def rendered(folder: Path) -> str:
    """The objects of a folder."""
    helm = shutil.which("helm", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "helm"
    given = ["--namespace", "kubeflow", "--values", str(folder / VALUES), "--set", "deploy.asHook=false"]
    text = subprocess.run(
        [helm, "template", "posttrain", str(CHART), *given], check=True, capture_output=True, text=True
    ).stdout
    # The namespace is for whoever applies to say: `kubectl apply -n`, or `namespace:` in a kustomization.
    objects = [each for each in yaml.safe_load_all(text) if each]
    for each in objects:
        each["metadata"].pop("namespace")
    if folder.name == NATIVE:
        [config] = [each for each in objects if each["kind"] == "ConfigMap"]
        objects += pipelines(config["data"]["deployment.yaml"])
    return yaml.safe_dump_all(objects, sort_keys=False, width=120)


def pipelines(deployment: str) -> Iterator[dict[str, Any]]:
    """The deployment's pipelines as Kubernetes-native objects, in the form of KFP's own compiler."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "deployment.yaml"
        file.write_text(deployment, encoding="utf-8")
        for package in packages(read_deployment(file), file.name):
            yield from native(package)


def native(package: Package) -> list[dict[str, Any]]:
    """A pipeline and its version."""
    spec, *platform = yaml.safe_load_all(package.text)
    version = {
        "displayName": package.version,
        "description": package.description,
        "pipelineName": package.name,
        "pipelineSpec": spec,
        **({"platformSpec": platform[0]} if platform else {}),
    }
    return [
        _object("Pipeline", package.name, {"displayName": package.name, "description": package.description}),
        _object("PipelineVersion", package.version, version),
    ]


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "pipelines.kubeflow.org/v2beta1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def main() -> None:
    """Entry point."""
    stale = []
    for folder in folders():
        file, text = folder / OBJECTS, rendered(folder)
        if "--check" not in sys.argv:
            file.write_text(text, encoding="utf-8")
        elif not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(str(file.relative_to(HERE.parent)))
    if stale:
        sys.exit(f"{', '.join(stale)}: not what the chart renders; run `make manifests`")


if __name__ == "__main__":
    main()
