"""The recipes that measure and choose for themselves, and those composed of steps."""

import pytest
from posttrain.components.catalogue import load_stages

from posttrain.errors import ConfigError
from posttrain.recipes.compose import StepUse, compose, parts, possible
from posttrain.recipes.load import check_graph, in_order
from posttrain.recipes.loops import MOST_ROUNDS, diagnose_recipe, improve_recipe
from posttrain.taxonomy import METHODS

STAGES = load_stages()


@pytest.mark.parametrize("rounds", [1, 2, MOST_ROUNDS])
def test_improve_is_a_sound_recipe_of_as_many_rounds(rounds):
    recipe = improve_recipe(rounds)
    assert check_graph(recipe, STAGES) == []
    for kind, many in (("policy", rounds), ("best", rounds), ("current", rounds - 1), ("recommendation", rounds)):
        numbered = [f"{kind}_{n + 1}" for n in range(many)]
        assert [name for name in recipe.stages if name.startswith(f"{kind}_")] == numbered
    assert recipe.result == f"best_{rounds}"
    assert len(recipe.stages["run_report"].parents["evaluations"]) == rounds + 1


def test_a_round_builds_on_the_one_before_and_decides_on_what_it_is_not_judged_by():
    stages = improve_recipe(3).stages
    assert "before" not in stages["evaluation_1"].parents and "previous" not in stages["recommendation_1"].parents
    assert stages["evaluation_2"].parents["before"] == ["evaluation_1"]
    assert stages["evaluation_3"].parents["before"] == ["evaluation_1", "evaluation_2"]
    assert stages["recommendation_2"].parents["previous"] == "recommendation_1"
    assert stages["diagnosis_2"].parents["policy"] == stages["policy_2"].parents["base"] == "current_1"
    assert stages["diagnosis_1"].parents["training"] == "training_evaluation"
    assert "training" not in stages["diagnosis_2"].parents, "by then it has been trained on them"
    decided, judged = stages["evaluation_1"].parents["problems"], stages["result_exam"].parents["problems"]
    halves = [stages[name].settings["part"] for name in (decided, judged)]
    assert halves == ["first", "second"]


def test_every_candidate_is_judged_against_the_best_so_far_and_only_the_best_is_registered():
    stages = improve_recipe(2).stages
    for number, best in ((1, "base_policy"), (2, "best_1")):
        judged = stages[f"best_{number}"].parents
        assert (judged["candidate"], judged["best"]) == (f"policy_{number}", best)
        assert judged["evaluations"] == [f"evaluation_{n}" for n in range(1, number + 2)]
    assert stages["current_1"].parents == stages["best_1"].parents
    assert [stages[f"{name}_1"].settings.get("provisional", False) for name in ("best", "current")] == [False, True]
    for name in ("result_exam", "registered"):
        assert stages[name].parents["policy"] == "best_2"


@pytest.mark.parametrize("rounds", [0, MOST_ROUNDS + 1])
def test_too_few_or_many_rounds(rounds):
    with pytest.raises(ConfigError, match=f"rounds={rounds}: use 1 to {MOST_ROUNDS}"):
        improve_recipe(rounds)


def test_diagnose_trains_nothing():
    recipe = diagnose_recipe()
    assert check_graph(recipe, STAGES) == []
    methods = {METHODS[STAGES[spec.use].name] for spec in recipe.stages.values() if spec.use in METHODS}
    assert all(method.provenance is None for method in methods)
    assert [name for name, entry in recipe.inputs.items() if entry.default is None] == ["base", "problems"]


@pytest.mark.parametrize("name", parts().steps)
def test_every_step_is_a_recipe_by_itself(name):
    recipe = compose("alone", "Alone", [StepUse(step=name)])
    assert check_graph(recipe, STAGES) == []
    assert set(parts().steps[name].needs) <= set(recipe.inputs)
    assert recipe.stages[recipe.result].role == parts().steps[name].role


def test_steps_follow_each_other_with_evaluations_between():
    recipe = compose("three", "Three", [StepUse(step=name) for name in ("sft_replay", "rft", "rl")])
    assert check_graph(recipe, STAGES) == []
    order = in_order(recipe)
    assert order.index("sft_replay_policy_1") < order.index("rft_policy_2") < order.index("rl_policy_3")
    assert recipe.stages["rl_policy_3"].parents["init"] == "rft_policy_2"
    assert recipe.stages["rl_evaluation_3"].parents["before"] == "rft_evaluation_2"


def test_only_what_is_at_hand_is_possible():
    assert "sft" not in possible([]) and "rft" in possible([])
    assert {"sft", "imitate"} <= set(possible(["demos", "teacher"]))


def test_what_cannot_be_composed():
    with pytest.raises(ConfigError, match="no step to take"):
        compose("none", "None", [])
    with pytest.raises(ConfigError, match="no step is called 'rlx'; did you mean 'rl'"):
        compose("x", "X", [StepUse(step="rlx")])
    with pytest.raises(ConfigError, match="no stage 'polcy' in it"):
        compose("x", "X", [StepUse(step="rl", settings={"polcy": {"kl": 0.1}})])
