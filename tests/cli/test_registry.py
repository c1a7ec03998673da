"""`posttrain models` and `rollback`."""

import pytest

from posttrain.registry import open_registry
from posttrain.taxonomy import Kind
from tests.registry.conftest import WHEN, decided, made


@pytest.fixture
def registry(tmp_path):
    """Two champions in a row, and one that was not compared with the second."""
    registry, policies = open_registry(str(tmp_path / "registry")), []
    for n in range(3):
        policy = made(tmp_path / f"policy{n}", Kind.POLICY, bytes([n]))
        against = policies[0].digest if policies else ""
        registry.register("math", policy, decided(tmp_path / f"decision{n}", against), WHEN)
        policies.append(policy)
    return registry


def lines(text):
    return [line.split() for line in text.splitlines()]


def test_models_are_listed(posttrain, registry):
    code, out, _ = posttrain("models", "--registry", registry.uri)
    assert (code, lines(out)[1]) == (0, ["math", "v2", "3", "2026-01-02", "00:00"])


def test_versions_and_champions_are_listed_the_newest_first(posttrain, registry):
    code, out, _ = posttrain("models", "math", "--registry", registry.uri)
    assert code == 0
    digests = [version.digest[:12] for version in registry.index("math").versions]
    assert lines(out)[1:4] == [
        ["v3", "v1", "0.250", "–", "2026-01-02", digests[2]],
        ["v2", "now", "v1", "0.250", "–", "2026-01-02", digests[1]],
        ["v1", "was", "–", "0.250", "–", "2026-01-02", digests[0]],
    ]
    assert "gain in pass@1 +0.250" in out
    assert [line[0] for line in lines(out)[6:8]] == ["v2", "v1"]


def test_rolling_back_says_from_what_to_what(posttrain, registry):
    code, out, _ = posttrain("rollback", "math", "--registry", registry.uri, "--dry-run")
    assert (code, out) == (0, f"math: champion v2 → v1 ({registry.uri}/math/v1); dry run\n")
    assert registry.champion("math").version == 2
    code, out, _ = posttrain("rollback", "math", "--registry", registry.uri, "--reason", "answers in capitals")
    assert (code, out) == (0, f"math: champion v2 → v1 ({registry.uri}/math/v1)\n")
    assert registry.champion("math").version == 1
    _, out, _ = posttrain("models", "math", "--registry", registry.uri)
    assert "by hand: answers in capitals" in out
    code, out, _ = posttrain("rollback", "math", "--registry", registry.uri, "--to", 1)
    assert (code, out) == (0, f"math: champion v1 as before ({registry.uri}/math/v1)\n")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["rollback", "maths"], "no model 'maths' is registered; did you mean 'math'?"),
        (["models", "maths"], "no model 'maths' is registered; did you mean 'math'?"),
        (["rollback", "math", "--to", "9"], "math: no version 9; registered: 1, 2, 3"),
        (["rollback", "math", "--model-registry", "there"], "give the server's URL"),
    ],
)
def test_a_mistake_is_one_line(posttrain, registry, command, said):
    code, out, error = posttrain(*command, "--registry", registry.uri)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert said in error


def test_an_empty_place_is_one_line(posttrain, tmp_path):
    code, _, error = posttrain("models", "--registry", tmp_path)
    assert (code, error) == (2, f"error: {tmp_path}: nothing is registered there; check the URI\n")
