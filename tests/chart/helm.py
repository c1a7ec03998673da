"""Helm, as the environment has it, and what it renders."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts" / "posttrain"
NAMESPACE = "team-a"


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it; its exit code is for the caller."""
    found = shutil.which("helm", path=str(Path(sys.executable).parent)) or shutil.which("helm")
    assert found, "helm is not installed; `make install` does it"
    return subprocess.run([found, *arguments], capture_output=True, text=True)


def rendered(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The chart's objects with these values."""
    ended = _template(values)
    assert ended.returncode == 0, ended.stderr
    return [each for each in yaml.safe_load_all(ended.stdout) if each]


def refusal(values: dict[str, Any]) -> str:
    """What Helm says of values that it does not take."""
    ended = _template(values)
    assert ended.returncode != 0, "these values are taken"
    return ended.stderr


def only(**pipelines: dict[str, Any]) -> dict[str, Any]:
    """Values for these pipelines alone: Helm merges a map with its defaults, and what is not wanted is set to null."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["pipelines"]
    return {**dict.fromkeys(defaults), **pipelines}


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The object of a kind whose name ends so."""
    [found] = [each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(name)]
    return found


def _template(values: dict[str, Any] | None) -> subprocess.CompletedProcess[str]:
    import json
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values or {}, file)
        file.flush()
        return helm("template", "posttrain", str(CHART), "--namespace", NAMESPACE, "--values", file.name)
