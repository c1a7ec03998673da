"""What several rooms' tests begin with."""

import pytest

from tests.made import based, prepared, problem
from tests.tiny import tiny_policy


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two policies of a family, `policy` and `sibling`, the model of the first, and eight problems."""
    home = tmp_path_factory.mktemp("home")
    based(home / "policy", tiny_policy(home / "model", "gpt2"))
    based(home / "sibling", tiny_policy(home / "sibling_model", "gpt2", seed=1))
    prepared(home / "problems", [problem(n) for n in range(8)])
    return home


@pytest.fixture
def out(tmp_path):
    return tmp_path / "x" / "out"
