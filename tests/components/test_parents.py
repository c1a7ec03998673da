"""What stages refuse of their parents together: evaluations measured otherwise, and one artifact in two roles."""

import json

import pytest
from posttrain.components.catalogue import load_stage

from posttrain.artifacts.record import read_record
from posttrain.errors import ConfigError, ContractError
from posttrain.stage import execute
from tests.made import evaluated, prepared, problem, refused

# Every stage that pairs evaluations, and the parents in which an odd one can be.
PAIRING = [
    ("gate", "champion", ["candidate"]),
    ("contrast", "base", ["candidates"]),
    ("keep", "evaluations", ["evaluations", "anchors_first"]),
    ("diagnose", "evaluation", ["before", "teacher", "scaffold", "anchors"]),
]


@pytest.mark.parametrize(("stage", "role", "odd"), [(s, r, o) for s, r, odd in PAIRING for o in odd])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"problems": True}, "of different problems"),
        ({"samples": 5}, "differ in samples"),
        ({"temperature": 0.7}, "differ in temperature"),
        ({"backend": "vllm"}, "differ in backend"),
        ({"verifiers": "exact@0.0.1"}, "different verifiers"),
    ],
)
def test_only_what_was_measured_alike_is_paired(home, tmp_path, out, stage, role, odd, change, says):
    settings = {key: value for key, value in change.items() if key not in ("problems", "verifiers")}
    problems = home / "problems"
    if "problems" in change:
        problems = prepared(tmp_path / "others", [problem(n) for n in range(50, 58)])
    mine = evaluated(tmp_path / "mine", home / "policy", home / "problems", [1] * 40)
    other = evaluated(tmp_path / "other", home / "sibling", problems, [1] * 40, **settings)
    if "verifiers" in change:
        file = other / "posttrain.json"
        record = json.loads(file.read_text())
        record["facts"]["verifiers"] = change["verifiers"]
        file.write_text(json.dumps(record))
    parents = {role: [mine]}
    if stage == "keep":
        parents |= {"best": [home / "policy"], "candidate": [home / "sibling"]}
        if odd == "anchors_first":
            alike = evaluated(tmp_path / "alike", home / "sibling", home / "problems", [1] * 40)
            parents |= {"evaluations": [mine, alike], "anchors": [mine]}
    if (stage, odd) == ("diagnose", "anchors"):
        parents["anchors"] = [mine]
    parents[odd] = [*parents.get(odd, []), other]
    refused(stage, parents, {}, out, ContractError, says)


def test_a_parent_given_once_can_have_two_roles(home, out, tmp_path):
    """What a component does that Kubeflow gives one artifact once: the same as with both given."""
    stage, policies = load_stage("merge"), [home / "sibling", home / "policy"]
    both = execute(stage, {"policies": policies, "base": [home / "policy"]}, {"method": "ties"}, tmp_path / "both")
    given = {"policies": [home / "sibling"], "base": [home / "policy"]}
    once = execute(stage, given, {"method": "ties", "also": {"policies_2": "base"}}, out)
    assert (once.digest, once.id) == (both.digest, both.id)
    assert [ref.role for ref in read_record(out).parents] == ["policies", "policies", "base"]
    first = {"method": "ties", "density": 0.5, "also": {"policies_1": "base"}}
    turned = execute(stage, given, first, tmp_path / "first")
    assert [ref.digest for ref in turned.parents] == [
        read_record(path).digest for path in [*policies[::-1], policies[1]]
    ]


@pytest.mark.parametrize(
    ("also", "says"),
    [
        ({"polices_2": "base"}, "no parent is called 'polices'"),
        ({"policies_2": "bas"}, "no parent is called 'bas'"),
        ({"policies_2": "base"}, "no parent 'base' was given"),
    ],
)
def test_what_cannot_be_shared(home, out, also, says):
    refused("merge", {"policies": [home / "policy"]}, {"also": also}, out, ConfigError, says)
