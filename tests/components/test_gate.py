"""What the gate compares and decides, and that nothing is registered without its pass."""

import json

import pytest
from posttrain.components.catalogue import load_stage

from posttrain.artifacts.record import read_record
from posttrain.errors import ConfigError, ContractError
from posttrain.stage import execute
from posttrain.taxonomy import Kind
from tests.made import evaluated, prepared, problem, refused


@pytest.fixture
def duel(home, tmp_path):
    """Evaluations of two policies: the sibling is right everywhere, the policy nowhere."""
    worse = evaluated(tmp_path / "worse", home / "policy", home / "problems", [0] * 40)
    better = evaluated(tmp_path / "better", home / "sibling", home / "problems", [4] * 40)
    return {"champion": [worse], "candidate": [better]}


@pytest.mark.parametrize(
    ("name", "value"),
    [("samples", 5), ("temperature", 0.7), ("max_new_tokens", 99), ("top_p", 0.9), ("top_k", 3)],
)
def test_a_gate_refuses_another_decoding(home, tmp_path, out, duel, name, value):
    other = evaluated(tmp_path / "other", home / "sibling", home / "problems", [4] * 40, **{name: value})
    parents = duel | {"candidate": [other]}
    refused("gate", parents, {}, out, ContractError, f"differ in {name}", str(value), "measure both alike")


def test_an_evaluation_from_before_there_were_back_ends_was_made_by_transformers(home, out, duel):
    file = duel["champion"][0] / "posttrain.json"
    record = json.loads(file.read_text())
    assert record["parameters"].pop("backend") == "transformers"
    file.write_text(json.dumps(record))
    assert execute(load_stage("gate"), duel, {}, out).kind is Kind.DECISION


def test_a_gate_refuses_other_problems(home, tmp_path, out, duel):
    others = prepared(tmp_path / "others", [problem(n) for n in range(50, 58)])
    other = evaluated(tmp_path / "other", home / "sibling", others, [4] * 40)
    refused("gate", duel | {"candidate": [other]}, {}, out, ContractError, "of different problems", "on the same")


def decision(duel, out, **settings):
    record = execute(load_stage("gate"), duel, settings, out)
    return record.facts["verdict"]


def test_a_gate_passes_fails_or_is_undecided(home, tmp_path, duel):
    assert decision(duel, tmp_path / "pass") == "pass"
    swapped = {"champion": duel["candidate"], "candidate": duel["champion"]}
    assert decision(swapped, tmp_path / "fail") == "fail"
    first = evaluated(tmp_path / "first", home / "policy", home / "problems", [1, 2, 3] * 4)
    second = evaluated(tmp_path / "second", home / "sibling", home / "problems", [3, 2, 2] * 4)
    close = {"champion": [first], "candidate": [second]}
    assert decision(close, tmp_path / "undecided") == "undecided"


def test_register_wants_a_pass_about_this_very_policy(home, tmp_path, out, duel):
    execute(load_stage("gate"), duel, {}, tmp_path / "pass")
    swapped = {"champion": duel["candidate"], "candidate": duel["champion"]}
    execute(load_stage("gate"), swapped, {}, tmp_path / "fail")
    settings = {"registry": str(tmp_path / "x" / "registry"), "model": "student"}
    parents = {"policy": [home / "policy"], "decision": [tmp_path / "fail"]}
    refused("register", parents, settings, out, ContractError, "the gate said 'fail'", "gain in pass@1")
    parents = {"policy": [home / "policy"], "decision": [tmp_path / "pass"]}
    refused("register", parents, settings, out, ContractError, "the decision is about", "evaluate and gate this policy")
    parents = {"policy": [home / "sibling"], "decision": [tmp_path / "pass"]}
    record = execute(load_stage("register"), parents, settings, out)
    assert record.facts["version"] == 1
    assert read_record(tmp_path / "x" / "registry" / "student" / "v1").digest == read_record(home / "sibling").digest


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b"])
def test_a_model_name_is_plain(out, name):
    refused("register", {}, {"registry": "r", "model": name}, out, ConfigError, f"model={name!r}", "use letters")
