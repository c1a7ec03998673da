import itertools
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.errors import VerifierError
from posttrain.verifiers import countdown
from posttrain.verifiers.arithmetic import reachable

TOY = {"numbers": [3, 5, 7], "target": 22}


@pytest.mark.parametrize(
    ("completion", "score", "answer"),
    [
        ("3*5+7", 1.0, "3*5+7"),
        ("5 * 3 + 7\n", 1.0, "5*3+7"),
        ("03*5+7", 1.0, "3*5+7"),
        ("7+3*5", 0.0, "7+3*5"),  # left to right this is 50
        ("3*5+7=22", 1.0, "3*5+7"),
        ("22 = 3*5+7", 1.0, "3*5+7"),
        ("3*5=15+7=22", 0.0, "15+7"),
        ("Let me see.\nThe answer is 3*5+7.", 1.0, "3*5+7"),
        ("<answer>3*5+7</answer>", 1.0, "3*5+7"),
        ("**3*5+7**", 1.0, "3*5+7"),
        (r"$3 \times 5 + 7$", 1.0, "3*5+7"),
        ("3*5+7 (each once)", 1.0, "3*5+7"),
        ("- 3*5+7", 1.0, "3*5+7"),
        ("3*5+7\nor 7*5+3", 0.0, "7*5+3"),
        ("3*5+7 or 7*5+3", 0.0, "7*5+3"),
        ("3*5", 0.0, "3*5"),
        ("3*5+7+0", 0.0, "3*5+7+0"),
        ("3*5+5", 0.0, "3*5+5"),
        ("22", 0.0, "22"),
        ("3**5+7", 0.0, None),
        ("3*5+", 0.0, None),
        ("-3*5+7", 0.0, None),
        ("3*5+7x", 0.0, None),
        ("3.5*7", 0.0, None),
        ("(3*5)+7", 0.0, None),
        ("٣*٥+٧", 0.0, None),
        ("", 0.0, None),
        ("NaN", 0.0, None),
        ("1e400", 0.0, None),
        ("3*5+7" * 10_000, 0.0, None),
        ("9" * 400, 0.0, None),
        ("3/0", 0.0, "3/0"),
    ],
)
def test_left_to_right(completion, score, answer):
    verdict = countdown.verify(completion, TOY)
    assert (verdict.score, verdict.answer) == (score, answer)


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("7+3*5", 1.0),
        ("(7+3)*5", 0.0),
        ("((7)+((3*5)))", 1.0),
        ("(so 7+3*5)", 1.0),
        ("7+(3*5", 0.0),
        ("(" * 200 + "7" + ")" * 200, 0.0),
        ("7/(5-5)", 0.0),
    ],
)
def test_with_precedence(completion, score):
    assert countdown.verify(completion, {**TOY, "precedence": True}).score == score


def test_a_sign_is_never_dropped_from_an_answer():
    assert countdown.verify("-27+3", {"numbers": [27, 3], "target": 30}).score == 0
    assert countdown.verify("2**3+1", {"numbers": [23, 1], "target": 24}).score == 0


NUMBERS = st.lists(st.integers(0, 12), min_size=2, max_size=3)
VALUE = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b}


@given(NUMBERS, st.data())
def test_agrees_with_python_on_every_expression(numbers, data):
    operators = data.draw(st.tuples(*[st.sampled_from("+-*/")] * (len(numbers) - 1)))
    expected: set[Fraction] = set()
    for order in set(itertools.permutations(numbers)):
        steps = list(zip(operators, order[1:], strict=True))
        expression = str(order[0]) + "".join(f"{sign}{number}" for sign, number in steps)
        left_to_right, value = Fraction(order[0]), None
        try:
            for sign, number in steps:
                left_to_right = VALUE[sign](left_to_right, number)
            expected.add(left_to_right)
            value = left_to_right
        except ZeroDivisionError:
            pass
        target = int(value) if value is not None and value.denominator == 1 else 10**6
        assert countdown.verify(expression, {"numbers": numbers, "target": target}).score == float(value == target)
        python = eval(re.sub(r"(\d+)", r"Fraction(\1)", expression)) if "/0" not in expression else None
        exact = python is not None and python.denominator == 1
        reference = {"numbers": numbers, "target": int(python) if exact else 10**6, "precedence": True}
        assert countdown.verify(expression, reference).score == float(exact)
    assert expected <= reachable(tuple(numbers), False) <= reachable(tuple(numbers), True)


@given(NUMBERS, st.integers(-20, 60))
def test_validate_complains_exactly_of_what_brute_force_cannot_make(numbers, target):
    def value(order, signs):
        made = Fraction(order[0])
        for sign, number in zip(signs, order[1:], strict=True):
            made = VALUE[sign](made, number) if number or sign != "/" else Fraction(-1, 7)
        return made

    signs = list(itertools.product("+-*/", repeat=len(numbers) - 1))
    solvable = any(value(order, s) == target for order in itertools.permutations(numbers) for s in signs
                   if not any(n == 0 and o == "/" for o, n in zip(s, order[1:], strict=True)))  # fmt: skip
    complaint = countdown.validate({"numbers": numbers, "target": target})
    assert (complaint is None) == solvable


@given(st.text(alphabet="0123456789+-*/()= .\n*x"))
def test_any_text_is_judged(text):
    for precedence in (False, True):
        assert countdown.verify(text, {**TOY, "precedence": precedence}).score in (0, 1)


@pytest.mark.parametrize(
    "reference",
    ["3*5+7", {"numbers": [3, 5]}, {"numbers": "35", "target": 8}, {"numbers": [], "target": 8},
     {"numbers": [-3], "target": 8}, {"numbers": [3.5], "target": 8}, {"numbers": [True], "target": 1},
     {"numbers": [3], "target": "3"}, {"numbers": [3], "target": 3, "presedence": True},
     {"numbers": [3], "target": 3, "precedence": 1}],
)  # fmt: skip
def test_complains_and_refuses(reference):
    assert countdown.validate(reference).startswith("countdown: ")
    with pytest.raises(VerifierError):
        countdown.verify("3", reference)


def test_an_unsolvable_problem_is_found_without_a_model():
    assert "makes 1000" in countdown.validate({"numbers": [1, 2, 3], "target": 1000})
    assert countdown.validate({"numbers": [3.0, 5.0, 7.0], "target": 22.0, "precedence": None}) is None
