"""The named recipes: each explains itself, says what every stage is for, and compiles."""

import pytest
from posttrain.components.catalogue import load_stages
from posttrain.pipelines.compiler import compile_recipe

from posttrain.recipes.execute import kind_of, result_of
from posttrain.recipes.load import load_recipe, named_recipes
from posttrain.settings import parse_settings
from posttrain.taxonomy import METHODS, Kind

STAGES = load_stages()
RECIPES = {name: load_recipe(name, STAGES) for name in named_recipes()}

pytestmark = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def method_of(name, recipe):
    spec = recipe.stages[name]
    stage = STAGES[spec.use]
    return METHODS[stage.method_of(parse_settings(stage.settings, spec.checkable(), name))]


def test_every_stage_that_trains_has_a_role_and_the_catalogues_provenance(recipe):
    learning = {name: method for name in recipe.stages if (method := method_of(name, recipe)).role}
    assert learning
    for name, method in learning.items():
        assert recipe.stages[name].role, name
        assert recipe.stages[name].provenance == method.provenance, name


def test_every_method_that_learns_says_why_it_is_used(recipe):
    learning = {name: method_of(name, recipe).name for name, spec in recipe.stages.items() if spec.provenance}
    assert set(learning.values()) == {method for name, method in learning.items() if recipe.stages[name].why}


def test_the_result_is_measured_gated_and_registered(recipe):
    result = result_of(recipe, STAGES)
    assert kind_of(result, recipe, STAGES) is Kind.POLICY
    candidate = recipe.stages["gate"].parents["candidate"]
    assert recipe.stages[candidate].parents["policy"] == result
    assert recipe.stages["registered"].parents["policy"] == result
    assert recipe.stages["run_report"].parents["evaluations"][-1] == candidate


def test_nothing_is_made_for_nobody(recipe):
    used = {parent for spec in recipe.stages.values() for parent in spec.parent_names()}
    makers = {name for name in recipe.stages if kind_of(name, recipe, STAGES) is not Kind.REGISTRATION}
    assert makers - used <= {"run_report", *(name for name, spec in recipe.stages.items() if spec.use == "evaluate")}


def test_it_says_where_it_comes_from_and_what_it_is(recipe):
    assert recipe.source
    assert recipe.description
    titles = [other.title for other in RECIPES.values()]
    assert titles.count(recipe.title) == 1


@pytest.mark.xdist_group("kfp")
def test_it_compiles(recipe, tmp_path):
    compile_recipe(recipe, tmp_path / "pipeline.yaml")
    assert f"name: {recipe.name}\n" in (tmp_path / "pipeline.yaml").read_text(encoding="utf-8")
