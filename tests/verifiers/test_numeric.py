from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.errors import VerifierError
from posttrain.verifiers import numeric


@pytest.mark.parametrize(
    ("completion", "reference", "score", "answer"),
    [
        ("So it is 22.", 22, 1.0, "22"),
        ("first 21, then 22", "22", 1.0, "22"),
        ("22 or 23", 22, 0.0, "23"),
        ("$1,234.50", 1234.5, 1.0, "2469/2"),
        ("1{,}234", "1,234", 1.0, "1234"),
        ("1,2,3", 3, 1.0, "3"),
        ("12,34", 34, 1.0, "34"),
        ("10-5", 5, 1.0, "5"),
        ("(3)-5", 5, 1.0, "5"),
        ("x = -5", -5, 1.0, "-5"),
        ("-$5", -5, 1.0, "-5"),
        ("\N{MINUS SIGN}5", -5, 1.0, "-5"),
        ("-0", 0, 1.0, "0"),
        ("-0.0", 0, 1.0, "0"),
        ("3/4", 0.75, 1.0, "3/4"),
        ("2 3/4", "11/4", 1.0, "11/4"),
        (r"\frac{3}{4}", "0.75", 1.0, "3/4"),
        ("3/0", 3, 0.0, None),
        ("3/4.5", 0.75, 0.0, "9/2"),
        (".5", "1/2", 1.0, "1/2"),
        ("1e3", 1000, 1.0, "1000"),
        ("1e400", 10**400, 1.0, str(10**400)),
        ("1e400", 1, 0.0, str(10**400)),
        ("1e999999999", 1, 0.0, None),
        ("50%", 50, 1.0, "50"),
        (r"50\%", 0.5, 1.0, "1/2"),
        ("0.5", "50%", 1.0, "50"),
        ("50 %", "5%", 0.0, "50"),
        ("0.3333333333333333", 1 / 3, 1.0, str(Fraction("0.3333333333333333"))),
        ("1/3", 1 / 3, 1.0, str(Fraction("0.3333333333333333"))),
        ("0.333", 1 / 3, 0.0, "333/1000"),
        ("3.15", {"answer": 3.14, "tolerance": 0.01}, 1.0, "157/50"),
        ("3.1501", {"answer": 3.14, "tolerance": 0.01}, 0.0, "31501/10000"),
        ("101", {"answer": 100, "relative": 0.01}, 1.0, "100"),
        ("1000000000001", 10**12, 0.0, "1000000000001"),
        ("", 5, 0.0, None),
        ("NaN", 5, 0.0, None),
        ("inf", 5, 0.0, None),
        ("٥", 5, 0.0, None),
        ("x5", 5, 0.0, None),
        ("9" * 5000, 5, 0.0, None),
        ("((((5))))", 5, 1.0, "5"),
        ("1 " * 200_000, 1, 1.0, "1"),
    ],
)
def test_numeric(completion, reference, score, answer):
    verdict = numeric.verify(completion, reference)
    assert (verdict.score, verdict.answer) == (score, answer)


@pytest.mark.parametrize(
    "reference",
    ["", "five", "5 or 6", None, True, [5], float("inf"), "1e99999", {"answer": 5, "tolerence": 1}, {"tolerance": 1},
     {"answer": 5, "tolerance": -1}, {"answer": 5, "tolerance": float("nan")}, {"answer": "3/0"}],
)  # fmt: skip
def test_complains_and_refuses(reference):
    assert numeric.validate(reference).startswith("numeric: ")
    with pytest.raises(VerifierError):
        numeric.verify("5", reference)


@given(st.integers(-(10**20), 10**20), st.integers(-(10**20), 10**20))
def test_an_integer_equals_only_itself_with_or_without_separators(gold, other):
    assert numeric.verify(f"so, {gold:,}.", gold).score == 1
    assert numeric.verify(str(other), gold).score == float(other == gold)


@given(st.fractions(), st.floats(allow_nan=False, allow_infinity=False))
def test_fractions_and_floats_read_back(fraction, number):
    assert numeric.verify(f"= {fraction}", str(fraction)).answer == str(fraction)
    if abs(number) > 1e-300:
        assert numeric.verify(repr(number), number).score == 1


@given(st.text())
def test_any_text_is_judged(text):
    assert numeric.verify(text, 5).score in (0, 1)
