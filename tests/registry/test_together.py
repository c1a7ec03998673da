"""Two processes that register at the same time lose nothing, on a disk and on a real S3 server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.registry import open_registry
from posttrain.storage import read_text
from tests.s3 import place, s3, s3_server

__all__ = ["place", "s3", "s3_server"]
pytestmark = pytest.mark.xdist_group("s3")

ROUNDS = 50
CHILD = """
import sys
from pathlib import Path
from posttrain.registry import open_registry
from posttrain.taxonomy import Kind
from tests.registry.conftest import WHEN, decided, made

me, rounds, registry, home = sys.argv[1], int(sys.argv[2]), open_registry(sys.argv[3]), Path(sys.argv[4])
passed = decided(home / me / "decision")
policies = [made(home / me / f"policy{n}", Kind.POLICY, f"{me} {n}".encode()) for n in range(rounds)]
print("ready", flush=True)
sys.stdin.readline()
for policy in policies:
    assert registry.register("student", policy, passed, WHEN, "always").promoted
"""


def test_two_processes_that_register_lose_no_version_and_no_promotion(place, tmp_path):
    command = [sys.executable, "-c", CHILD]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    children = [
        subprocess.Popen(
            [*command, me, str(ROUNDS), place, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for me in ("one", "two")
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    assert [child.wait(300) for child in children] == [0, 0]
    registry = open_registry(place)
    index = registry.index("student")
    numbers = list(range(1, 2 * ROUNDS + 1))
    assert [version.version for version in index.versions] == numbers
    assert sorted(promotion.version for promotion in index.promotions) == numbers
    assert (index.champion, index.uploading) == (index.promotions[-1].version, {})
    for version in index.versions:
        record = json.loads(read_text(f"{registry.policy_uri('student', version.version)}/posttrain.json"))
        assert record["digest"] == version.digest
