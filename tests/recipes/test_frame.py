"""`extends: gated`: what a recipe gets from it, what it leaves out, what it keeps of its own."""

import pytest
import yaml
from posttrain.components.catalogue import load_stages

from posttrain.errors import RecipeError
from posttrain.recipes.load import parse_recipe
from posttrain.recipes.schema import Recipe

STAGES = load_stages()

SHORT = """
name: short
title: Short
extends: gated
result: tuned
stages:
  tuned: {use: sft, parents: {init: base_policy, data: demonstrations}}
  tuned_evaluation: {use: evaluate, parents: {policy: tuned, problems: held_out_problems, before: base_evaluation}}
"""


def parsed(text):
    return parse_recipe(text, "short.yaml", STAGES)


def short(**changes):
    recipe = yaml.safe_load(SHORT)
    recipe["stages"] |= changes.pop("stages", {})
    return parsed(yaml.safe_dump(recipe | changes, sort_keys=False))


def test_it_measures_before_and_gates_registers_and_reports_after():
    made = short()
    before = ["base_policy", "held_out_problems", "demonstrations", "base_evaluation"]
    after = ["gate", "registered", "run_report"]
    assert list(made.stages) == [*before, "tuned", "tuned_evaluation", *after]
    assert made.stages["gate"].parents == {"candidate": "tuned_evaluation", "champion": "base_evaluation"}
    assert made.stages["registered"].parents == {"policy": "tuned", "decision": "gate"}
    evaluations = ["base_evaluation", "tuned_evaluation"]
    assert made.stages["run_report"].parents == {"evaluations": evaluations, "decision": "gate"}


def test_inputs_that_nothing_uses_are_left_out():
    assert list(short().inputs) == ["base", "held_out", "demos", "registry", "model", "model_registry"]


def test_what_the_recipe_has_itself_wins():
    gate = {"use": "gate", "parents": {"candidate": "tuned_evaluation", "champion": "base_evaluation"}}
    stricter = short(stages={"gate": gate | {"with": {"min_gain": 0.1}}}, inputs={"demos": {"help": "Mine."}})
    assert stricter.stages["gate"].settings == {"min_gain": 0.1}
    assert stricter.inputs["demos"].help == "Mine."
    assert stricter.inputs.keys() == short().inputs.keys()


def test_the_results_evaluation_is_the_reports_last():
    another = {"use": "evaluate", "parents": {"policy": "base_policy", "problems": "held_out_problems"}}
    made = short(stages={"again": another})
    assert made.stages["run_report"].parents["evaluations"] == ["base_evaluation", "again", "tuned_evaluation"]
    assert made.stages["gate"].parents["candidate"] == "tuned_evaluation"


def test_a_whole_recipe_written_out_is_the_same_again():
    whole = short().model_dump(mode="json", by_alias=True)
    assert Recipe.model_validate(whole) == parsed(yaml.safe_dump(whole, sort_keys=False)) == short()


@pytest.mark.parametrize("result", ["", "tuned_evaluation", "base"])
def test_a_result_that_is_not_evaluated_is_refused(result):
    with pytest.raises(RecipeError, match=rf"short\.yaml: result: no stage evaluates '{result}' on held_out_problems"):
        short(result=result)


def test_there_is_one_frame():
    with pytest.raises(RecipeError, match=r"short\.yaml: extends: .*'gated'"):
        short(extends="gates")
