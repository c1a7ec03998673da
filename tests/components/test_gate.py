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


@pytest.fixture
def shrunk(duel, monkeypatch):
    """The duel, with what the records say of the policies' sizes changed."""

    def sizes(champion, candidate):
        for role, count in (("champion", champion), ("candidate", candidate)):
            file = duel[role][0] / "posttrain.json"
            record = json.loads(file.read_text())
            for ancestor in record["ancestors"].values():
                if ancestor["kind"] == "policy":
                    ancestor["facts"]["parameters"] = count
            file.write_text(json.dumps(record))
        return duel

    return sizes


@pytest.mark.parametrize(
    ("sizes", "settings", "verdict", "said"),
    [
        ((100, 50), {"max_size_ratio": 0.5}, "pass", "parameters, relative 0.500"),
        ((100, 51), {"max_size_ratio": 0.5}, "fail", "parameters, relative 0.510"),
        ((100, 120), {"max_cost_ratio": 1.2}, "pass", "cost of an answer, relative 1.200"),
        ((100, 130), {"max_cost_ratio": 1.2}, "fail", "cost of an answer, relative 1.300"),
        ((100, 1000), {}, "pass", "gain in pass@1"),
    ],
)
def test_a_better_policy_may_cost_so_much(tmp_path, shrunk, sizes, settings, verdict, said):
    record = execute(load_stage("gate"), shrunk(*sizes), settings, tmp_path / "decision")
    assert (record.facts["verdict"], said in record.facts["reason"]) == (verdict, True)


def test_a_limit_needs_a_size(out, shrunk):
    refused("gate", shrunk(0, 10), {"max_size_ratio": 1.0}, out, ContractError, "champion says not how many parameters")


def test_a_slice_may_have_a_bound_of_its_own(home, tmp_path):
    problems = prepared(tmp_path / "sliced", [problem(n, slice="easy" if n % 2 else "hard") for n in range(40)])
    champion = evaluated(tmp_path / "before", home / "policy", problems, [2, 4] * 20, slices=["hard", "easy"])
    candidate = evaluated(tmp_path / "after", home / "sibling", problems, [4, 3] * 20, slices=["hard", "easy"])
    duel = {"champion": [champion], "candidate": [candidate]}
    lenient = {"slice_losses": {"easy": 0.5}, "max_support_loss": 1.0}
    assert decision(duel, tmp_path / "strict", max_support_loss=1.0) == "fail"
    assert decision(duel, tmp_path / "lenient", **lenient) == "pass"
    refused(
        "gate", duel, {"slice_losses": {"eazy": 0.3}}, tmp_path / "x", ContractError, "'eazy'", "did you mean 'easy'"
    )
    refused("gate", duel, {"slice_losses": {"easy": 3}}, tmp_path / "x", ConfigError, "easy=3", "a share from 0 to 1")
