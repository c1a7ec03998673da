"""What several rooms of the pipelines' tests begin with."""

import pytest
from posttrain.components.catalogue import load_stages
from posttrain.pipelines.scheduling import Scheduling

from posttrain.recipes.load import load_recipe, parse_recipe
from tests.pipelines.compiled import SMALL, Compiled

STAGES = load_stages()


# Every named recipe is compiled in tests/recipes/test_named.py; these two have all that the compiler can be given.
@pytest.fixture(scope="module", params=["sft-rl-distil", "nemotron-3-ultra"])
def compiled(request, tmp_path_factory):
    file = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    return Compiled(load_recipe(request.param, STAGES), file)


@pytest.fixture
def small(tmp_path):
    recipe = parse_recipe(SMALL, "small", STAGES)
    return lambda **scheduling: Compiled(recipe, tmp_path / "small.yaml", Scheduling(**scheduling))
