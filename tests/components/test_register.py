"""What a registration sets down and shows: champion or not, and why."""

import pytest
from posttrain.components.catalogue import load_stage

from posttrain.registry import open_registry
from posttrain.stage import execute
from posttrain.taxonomy import Kind
from tests.registry.conftest import decided, made


@pytest.fixture
def register(tmp_path):
    """Registers the policy of that content; the record and the page."""

    def call(content, champion="", **settings):
        policy = made(tmp_path / content, Kind.POLICY, content.encode())
        decision = tmp_path / f"{content}-decision"
        decided(decision, champion, candidate=policy.digest)
        out, page = tmp_path / f"{content}-out", tmp_path / f"{content}.html"
        settings |= {"registry": str(tmp_path / "registry"), "model": "math"}
        parents = {"policy": [policy.path], "decision": [decision]}
        return execute(load_stage("register"), parents, settings, out, page), page.read_text()

    return call


def test_the_first_is_champion_and_the_next_if_it_was_compared_with_it(register, tmp_path):
    record, page = register("one")
    assert (record.facts["version"], record.facts["champion"], record.metrics["champion"]) == (1, 1, 1.0)
    assert "math v1 is registered and is the champion" in page
    first = open_registry(str(tmp_path / "registry")).champion("math")
    record, page = register("two", first.digest)
    assert (record.facts["version"], record.facts["champion"]) == (2, 2)
    assert "math v2 is registered and is the champion" in page
    assert "Before: v1" in page


def test_another_is_registered_and_is_not_champion_and_everything_says_why(register, capsys):
    register("one")
    capsys.readouterr()
    record, page = register("two", "f" * 64)
    assert (record.facts["version"], record.facts["champion"], record.metrics["champion"]) == (2, 1, 0.0)
    why = record.facts["not_champion"]
    assert why.startswith("the gate compared it with ffffffffffff, and the champion is v1")
    assert why in capsys.readouterr().err
    assert "math v2 is registered, and is not the champion" in page
    assert "posttrain rollback math" in page


def test_promote_is_a_setting(register):
    register("one")
    assert register("two", promote="always")[0].facts["champion"] == 2
    assert register("three", promote="never")[0].facts["not_champion"] == "promote is never"


def test_a_page_shows_the_newest_of_many_versions(register):
    for n in range(21):
        page = register(f"policy-{n}", promote="always")[1]
    assert "The newest 20 of 21; posttrain models lists all." in page
    assert ">v21<" in page and ">v1<" not in page
