"""A recipe made fit to be repeated: whatever its gate says is set down, so that the same data is not tried again."""

from __future__ import annotations

from posttrain.errors import RecipeError
from posttrain.recipes.schema import Input, Recipe

# Inputs that whoever repeats the recipe fills in.
FILLED = {
    "data_version": Input(help="The data version, by name and content."),
    "run": Input(help="The run's id."),
}
_NEEDED = ("base", "held_out", "registry", "model")


def retraining(recipe: Recipe) -> Recipe:
    """The recipe with a registration that also sets down what the gate refused.

    Raises:
        RecipeError: it registers nothing behind a gate, or lacks an input that repeating needs.
    """
    registers = [name for name, spec in recipe.stages.items() if spec.use == "register" and spec.when]
    if len(registers) != 1:
        raise RecipeError(f"{recipe.name}: to be repeated, a recipe needs one stage register behind a gate (`when`)")
    for name in _NEEDED:
        if name not in recipe.inputs:
            raise RecipeError(f"{recipe.name}: to be repeated, a recipe needs the input {name!r}")
    spec = recipe.stages[registers[0]]
    settings = {**spec.settings, "refused": "note", **{name: f"${{{name}}}" for name in FILLED}}
    noted = spec.model_copy(update={"when": {}, "settings": settings})
    return recipe.model_copy(
        update={"stages": {**recipe.stages, registers[0]: noted}, "inputs": {**recipe.inputs, **FILLED}}
    )
