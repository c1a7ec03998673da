"""Policies and gates' decisions in a moment, and a registry on a disk and on a real S3 server."""

import itertools
import math
from datetime import UTC, datetime

import pytest

from posttrain.registry import open_registry
from posttrain.settings import Settings
from posttrain.stage import Stage, Work, execute
from posttrain.taxonomy import Kind
from tests.made import artifact
from tests.s3 import BUCKET, s3, s3_server

__all__ = ["s3", "s3_server"]

WHEN = datetime(2026, 1, 2, tzinfo=UTC)


def made(path, kind, content, **facts):
    def run(settings, parents, out, progress):
        (out / "model.safetensors").write_bytes(content)
        return Work(metrics={"gain_pass_1": 0.25, "unknown": math.nan}, facts=facts)

    execute(Stage("base", "policy", kind, {}, Settings, run, method="supplied"), {}, {}, path)
    return artifact(path, kind)


def decided(path, champion="", **more):
    """A gate's pass; `champion` is the digest of the policy that it compared the candidate with."""
    facts = {"verdict": "pass", "reason": "gain in pass@1 +0.250", **more} | (
        {"champion": champion} if champion else {}
    )
    return made(path, Kind.DECISION, path.name.encode(), **facts)


@pytest.fixture
def policies(tmp_path):
    return [made(tmp_path / f"policy{n}", Kind.POLICY, bytes([n])) for n in range(3)]


@pytest.fixture
def passed(tmp_path):
    return decided(tmp_path / "decision")


@pytest.fixture
def proven(tmp_path):
    """A decision that compared with this policy."""
    numbers = itertools.count()
    return lambda champion: decided(tmp_path / f"against-{next(numbers)}", champion.digest)


@pytest.fixture(params=["path", "file", "s3"])
def registry(request, tmp_path):
    if request.param == "s3":
        request.getfixturevalue("s3")
        return open_registry(f"s3://{BUCKET}/registry/")
    return open_registry(f"{'file://' if request.param == 'file' else ''}{tmp_path}/registry/")
