import importlib
import inspect
import json
import re
import textwrap

import pytest

pytest.importorskip("reasoning_gym")

from reasoning_gym.factory import DATASETS, create_dataset

from posttrain.errors import VerifierError
from posttrain.verifiers import harmless, reasoning_gym
from posttrain.verifiers.verdict import NOT_FOUND

GCD = {"task": "gcd", "seed": 1, "index": 3}


def entry(task, **config):
    """An entry as a JSON file keeps it."""
    return json.loads(json.dumps(create_dataset(task, seed=1, size=1, **config)[0]))


@pytest.mark.parametrize("task", ["gcd", "arc_agi", "rearc", "number_sorting", "n_queens", "puzzle24", "graph_color"])
def test_a_stored_entry_and_a_remade_one_are_both_valid(task):
    assert reasoning_gym.validate({"task": task, "entry": entry(task)}) is None
    assert reasoning_gym.validate({"task": task, "seed": 1, "index": 0, "config": None}) is None


def test_right_wrong_and_empty():
    gold = create_dataset("gcd", seed=1, size=4)[3]["answer"]
    assert reasoning_gym.verify(gold, GCD).score == 1
    verdict = reasoning_gym.verify(f"<answer>0</answer> hm <answer> {gold} </answer>", GCD)
    assert (verdict.score, verdict.answer) == (1, gold)
    for wrong in ("-0", "1e400", "NaN", "٣", "((", "x" * 100_000):
        assert reasoning_gym.verify(wrong, GCD).score == 0
    for nothing in ("", " \n", "<answer></answer>", "<answer>"):
        assert reasoning_gym.verify(nothing, GCD) == NOT_FOUND


def test_a_scorer_that_raises_on_an_answer_means_that_it_is_wrong():
    problem = {"task": "prime_factorization", "entry": entry("prime_factorization")}
    assert reasoning_gym.verify("none", problem).score == 0


@pytest.mark.parametrize("task", sorted(harmless.EVALUATES | harmless.PARSES))
def test_no_answer_is_executed(task, tmp_path):
    trace = tmp_path / "executed"
    problem = {"task": task, "entry": entry(task)}
    for attack in (f"open({str(trace)!r}, 'w')", f"[open({str(trace)!r}, 'w')]", "oracle_answer", "[oracle_answer]"):
        assert reasoning_gym.verify(attack, problem).score == 0
    assert not trace.exists()


def test_formulas_and_literals_still_count():
    assert reasoning_gym.verify("(8-4)*(8-2)", {"task": "puzzle24", "entry": entry("puzzle24")}).score == 1
    problem = entry("spiral_matrix")
    as_list = str(problem["answer"].split())
    assert reasoning_gym.verify(as_list, {"task": "spiral_matrix", "entry": problem}).score == 0.1


@pytest.mark.parametrize("task", sorted(DATASETS))
def test_every_scorer_that_executes_answers_is_known(task):
    scorer = DATASETS[task][0].score_answer
    runs = re.search(r"\b(eval|exec|parse_expr|sympify)\(", textwrap.dedent(inspect.getsource(scorer)))
    own_parser = "reasoning_gym" in getattr(
        getattr(importlib.import_module(scorer.__module__), "parse_expr", None), "__module__", ""
    )
    # number_sorting evaluates only its own gold answer.
    expected = task in harmless.EVALUATES | harmless.PARSES | {"number_sorting"}
    assert bool(runs and not own_parser) == expected


@pytest.mark.parametrize(
    "reference",
    ["gcd", {"seed": 1, "index": 0}, {"task": "gdc", "seed": 1, "index": 0}, {"task": "gcd", "seed": 1},
     {"task": "gcd", "seed": 1, "index": -1}, {"task": "gcd", "entry": {"answer": "1"}},
     {"task": "gcd", "seed": 1, "index": 0, "config": {"sized": 3}}, {"task": "composite", "seed": 1, "index": 0}],
)  # fmt: skip
def test_complains_and_refuses(reference):
    assert reasoning_gym.validate(reference).startswith("reasoning_gym")
    with pytest.raises(VerifierError):
        reasoning_gym.verify("1", reference)


def test_an_unknown_task_names_the_nearest():
    assert "did you mean 'gcd'?" in reasoning_gym.validate({"task": "gdc", "seed": 1, "index": 0})
