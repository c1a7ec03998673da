"""Objects in Kubernetes, by kubectl and KUBECONFIG."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import yaml


def kubectl(*arguments: str, given: str = "") -> str:
    """What it prints."""
    ended = subprocess.run(["kubectl", *arguments], input=given, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def apply(*objects: dict[str, Any]) -> None:
    """Make them, or make them so."""
    kubectl("apply", "-f", "-", given=yaml.safe_dump_all(objects))


def listed(kind: str, namespace: str, *more: str) -> list[dict[str, Any]]:
    """All of a kind."""
    found: list[dict[str, Any]] = json.loads(kubectl("get", kind, "-n", namespace, "-o", "json", *more))["items"]
    return found
