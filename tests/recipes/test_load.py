"""Recipes: everything shipped loads; everything wrong is said at once, with its path and the remedy."""

import copy

import pytest
import yaml
from posttrain.components.catalogue import load_stages

from posttrain.errors import RecipeError
from posttrain.recipes.load import check_recipe, in_order, load_recipe, named_recipes, parse_recipe
from posttrain.recipes.schema import Recipe

STAGES = load_stages()

SMALL = yaml.safe_load(
    """
name: small
title: Small
inputs:
  base: {help: The policy.}
  demos: {help: Demonstrations.}
  held_out: {help: Held-out problems.}
  registry: {help: The registry.}
stages:
  base_policy: {use: base, with: {uri: "${base}"}}
  problems: {use: prepare, with: {uri: "${held_out}", kind: problems}}
  data: {use: prepare, parents: {held_out: problems}, with: {uri: "${demos}", kind: trajectories}}
  tuned: {use: sft, parents: {init: base_policy, data: data}, provenance: off-policy}
  before: {use: evaluate, parents: {policy: base_policy, problems: problems}}
  after: {use: evaluate, parents: {policy: tuned, problems: problems, before: before}}
  gate: {use: gate, parents: {candidate: after, champion: before}}
  registered:
    use: register
    parents: {policy: tuned, decision: gate}
    when: {gate: pass}
    with: {registry: "${registry}", model: small}
  page: {use: report, parents: {evaluations: [before, after], decision: gate}}
"""
)


def small(**stages):
    """The small recipe with stages changed: a key's value replaces it, None removes it."""
    recipe = copy.deepcopy(SMALL)
    for name, changes in stages.items():
        merged = recipe["stages"].get(name, {}) | changes
        recipe["stages"][name] = {key: value for key, value in merged.items() if value is not None}
    return recipe


def complaints(recipe):
    text = recipe if isinstance(recipe, str) else yaml.safe_dump(recipe, sort_keys=False)
    with pytest.raises(RecipeError) as raised:
        parse_recipe(text, "small.yaml", STAGES)
    line = str(raised.value)
    assert line.startswith("small.yaml: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", named_recipes())
def test_every_shipped_recipe_loads_and_explains_itself(name):
    recipe = load_recipe(name, STAGES)
    assert recipe.name == name
    assert recipe.title
    assert recipe.source
    assert all(entry.help for entry in recipe.inputs.values())
    used = {used for spec in recipe.stages.values() for used in spec.bound().values()}
    assert used == recipe.inputs.keys()
    assert named_recipes()[name].read_text(encoding="utf-8").startswith("# ")


def test_there_are_recipes():
    assert "sft-rl-distil" in named_recipes()


def test_the_small_one_loads(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    assert load_recipe(str(file), STAGES).stages.keys() == SMALL["stages"].keys()


@pytest.mark.parametrize(
    ("changes", "mentions"),
    [
        ({"tuned": {"use": "stf"}}, ["stages.tuned.use", "no stage is called 'stf'; did you mean 'sft'?"]),
        (
            {"tuned": {"parents": {"init": "base_polcy", "data": "data"}}},
            ["stages.tuned.parents.init", "'base_polcy'", "did you mean 'base_policy'?"],
        ),
        (
            {"tuned": {"parents": {"innit": "base_policy", "data": "data"}}},
            [
                "sft takes no parent 'innit'; did you mean 'init'?",
                "sft needs a parent 'init' (policy): the policy to start from",
            ],
        ),
        ({"tuned": {"parents": {"init": "base_policy"}}}, ["stages.tuned.parents: sft needs a parent 'data'"]),
        ({"tuned": {"parents": None}}, ["needs a parent 'init'", "needs a parent 'data'"]),
        (
            {"tuned": {"parents": {"init": "data", "data": "base_policy"}}},
            [
                "'data' makes a trajectories artifact where a policy is needed",
                "'base_policy' makes a policy artifact where a trajectories is needed",
            ],
        ),
        (
            {"tuned": {"parents": {"init": ["base_policy", "base_policy"], "data": "data"}}},
            ["stages.tuned.parents.init: 2 parents, at most 1"],
        ),
        (
            {"base_policy": {"use": "sft", "with": None, "parents": {"init": "tuned", "data": "data"}}},
            ["a cycle: base_policy → tuned → base_policy"],
        ),
        ({"tuned": {"parents": {"init": "tuned", "data": "data"}}}, ["a cycle: tuned → tuned"]),
        ({"problems": {"parents": {"held_out": "problems"}}}, ["a cycle: problems → problems"]),
        (
            {"tuned": {"with": {"learning_rat": 1}}},
            ["stages.tuned.with", "learning_rat=1", "did you mean 'learning_rate'?"],
        ),
        ({"tuned": {"with": {"epochs": 0}}}, ["epochs=0", "greater than 0"]),
        ({"tuned": {"with": {"method": "rlhf"}}}, ["method='rlhf'", "'sft', 'dft'"]),
        ({"tuned": {"with": {"role": "expansion"}}}, ["stages.tuned.with.role", "beside 'use'"]),
        ({"tuned": {"with": {"name": "mine"}}}, ["stages.tuned.with.name", "its key"]),
        ({"tuned": {"provenance": "on-policy"}}, ["stages.tuned.provenance: on-policy, but sft is off-policy"]),
        ({"tuned": {"provenance": "of-policy"}}, ["stages.tuned.provenance", "'off-policy', 'on-policy' or 'mixed'"]),
        ({"tuned": {"role": "growth"}}, ["stages.tuned.role", "'expansion', 'reshaping' or 'consolidation'"]),
        ({"tuned": {"parent": {}}}, ["unknown key stages.tuned.parent", "did you mean 'parents'?"]),
        ({"tuned": {"settings": {}, "wiht": {}}}, ["unknown key stages.tuned.wiht", "did you mean 'with'?"]),
        ({"problems": {"with": {"kind": "problems"}}}, ["stages.problems.with", "uri must be given"]),
        (
            {"base_policy": {"with": {"uri": "${bas}"}}},
            ["stages.base_policy.with.uri", "no input is called 'bas'; did you mean 'base'?"],
        ),
        ({"base_policy": {"with": {"uri": "${base}/sub"}}}, ["stages.base_policy.with.uri", "a whole value"]),
        ({"base_policy": {"with": {"uri": "${Base}"}}}, ["stages.base_policy.with.uri", "a whole value"]),
        ({"registered": {"when": {"after": "pass"}}}, ["stages.registered.when: 'after' is not a gate"]),
        (
            {"registered": {"when": {"gate": "passed"}}},
            ["stages.registered.when.gate: 'passed'; use pass, fail or undecided"],
        ),
        ({"tuned": {"when": {"gate": "pass"}}}, ["stages.tuned.when", "only stages without one can wait for a gate"]),
        ({"Tuned": {"use": "sft"}}, ["'Tuned': use lower-case letters"]),
        ({"tuned": {"use": None}}, ["stages.tuned.use", "required"]),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_a_wrong_stage_is_said_with_path_and_remedy(changes, mentions):
    line = complaints(small(**changes))
    for mention in mentions:
        assert mention in line


@pytest.mark.parametrize(
    ("key", "value", "mention"),
    [
        ("titel", "x", "unknown key titel; did you mean 'title'?"),
        ("name", "Small One", "name: use lower-case letters, digits and '-'"),
        ("stages", None, "stages"),
        ("inputs", {"base": {}}, "inputs.base.help"),
        ("inputs", {"base": {"help": "x", "defualt": "y"}}, "unknown key inputs.base.defualt"),
    ],
)
def test_a_wrong_key_is_said(key, value, mention):
    assert mention in complaints(SMALL | {key: value})


@pytest.mark.parametrize("text", ["a: [", "- a\n- b", "", "5"])
def test_what_is_no_recipe_is_refused_in_one_line(text):
    complaints(text)


def test_everything_wrong_is_said_at_once():
    changes = {
        "tuned": {"parents": {"init": "nobody", "datta": "data"}, "with": {"epochs": -1, "lr": 1}},
        "after": {"use": "evalute"},
        "registered": {"when": {"gate": "yes"}, "with": {"registry": "${nowhere}", "model": "a/b"}},
    }
    line = complaints(small(**changes))
    mentions = ["'nobody'", "'datta'", "needs a parent 'data'", "epochs=-1", "lr=1", "'evalute'", "'yes'", "'nowhere'"]
    assert [mention for mention in [*mentions, "model='a/b'"] if mention not in line] == []


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match=r"no recipe is called 'sft-rl-distill'.*did you mean 'sft-rl-distil'"):
        load_recipe("sft-rl-distill", STAGES)


@pytest.mark.parametrize("name", [*named_recipes(), "small"])
def test_stages_stand_after_their_parents_in_order(name):
    recipe = Recipe.model_validate(SMALL) if name == "small" else load_recipe(name, STAGES)
    for turned in (recipe, recipe.model_copy(update={"stages": dict(reversed(recipe.stages.items()))})):
        check_recipe(turned, name, STAGES)
        order = in_order(turned)
        assert sorted(order) == sorted(turned.stages)
        for stage, spec in turned.stages.items():
            assert all(order.index(parent) < order.index(stage) for parent in [*spec.parent_names(), *spec.when])


def test_a_recipe_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"mine\.yaml: not text .* a recipe is YAML in UTF-8"):
        load_recipe(str(tmp_path / "mine.yaml"), STAGES)
