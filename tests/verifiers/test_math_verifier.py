import threading

import pytest

pytest.importorskip("math_verify")

from posttrain.errors import VerifierError
from posttrain.verifiers import math


@pytest.mark.parametrize(
    ("completion", "reference", "score"),
    [
        ("So it is \\boxed{\\frac{1}{2}}.", "\\frac12", 1.0),
        ("The answer is $0.5$", "1/2", 1.0),
        ("0.5", 0.5, 1.0),
        ("\\boxed{\\boxed{1/2}}", "1/2", 1.0),
        ("x^2+1", "1+x^2", 1.0),
        ("2\\sqrt{3}", 2, 0.0),
        ("2\\sqrt{3}", "\\sqrt{12}", 1.0),
        ("10^{12}", 10, 0.0),
        ("\\boxed{1} and \\boxed{2}", 1, 0.0),
        ("\\boxed{1}, no, the answer is \\boxed{2}", ["7", "2"], 0.0),
        ("\\boxed{2}", ["7", "2"], 1.0),
        ("\\boxed{(1,2)}", "(1,2)", 1.0),
        ("$x=5$", "5", 1.0),
        ("-0", 0, 1.0),
        ("1e400", 1, 0.0),
        ("NaN", 5, 0.0),
        ("٥", 5, 0.0),
        ("", 5, 0.0),
        ("(" * 3_000, 5, 0.0),
        ("1 " * 20_000 + "so \\boxed{5}", 5, 1.0),
        ("5", "Monday", None),
        ("5", ")(", None),
    ],
)
def test_math(completion, reference, score):
    assert math.verify(completion, reference).score == score


def test_equal_right_answers_are_one_answer():
    answers = {math.verify(f"${one}$", "1/2").answer for one in ("0.5", "\\frac{1}{2}", "2/4", "\\dfrac24")}
    assert answers == {"1/2"}


def test_works_in_a_thread():
    scores = []
    thread = threading.Thread(target=lambda: scores.append(math.verify("$0.5$", "1/2").score))
    thread.start()
    thread.join()
    assert scores == [1.0]


@pytest.mark.parametrize("reference", ["Monday", ")(", "", None, True, [], {"anser": 1}, ["1/2", "Monday"]])
def test_complains(reference):
    assert math.validate(reference).startswith("math: ")


@pytest.mark.parametrize("reference", ["1/2", 0.1, 1e-7, "\\boxed{3}", "$x^2$", "(1,2)", "x<3", "It is 5", ["1"]])
def test_accepts(reference):
    assert math.validate(reference) is None


def test_refuses_an_unusable_shape():
    with pytest.raises(VerifierError, match="anser"):
        math.verify("5", {"anser": 5})
