"""Every declared effect is there, at its first seed, with its margin."""

from importlib import import_module
from pathlib import Path

import pytest

from posttrain.taxonomy import METHODS
from tests.effects.effect import EFFECTS

for module in sorted(Path(__file__).parent.glob("of_*.py")):
    import_module(f"tests.effects.{module.stem}")


@pytest.mark.parametrize("name", sorted(EFFECTS))
def test_the_stage_moves_what_it_is_for(name: str, tmp_path: Path) -> None:
    declared = EFFECTS[name]
    assert declared.method in METHODS
    measured = declared.measure(tmp_path, 0)
    assert declared.holds(measured), f"{declared.quantity}: {measured.baseline:.3f} → {measured.value:.3f}"
