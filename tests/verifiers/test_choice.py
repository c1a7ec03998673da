import pytest

from posttrain.errors import VerifierError
from posttrain.verifiers import choice


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("**B.** neon", "B"),
        ("B) neon", "B"),
        ("The answer is (B)", "B"),
        ("The answer is (b).", "B"),
        ("the answer is: **B**, neon", "B"),
        ("Answer:\n\nB", "B"),
        ("The correct option is B", "B"),
        ("The answer is option B", "B"),
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{(b)}}", "B"),
        ("<answer>b</answer>", "B"),
        ("The answer is (A). Wait, the answer is (B).", "B"),
        ("The answer is (B). Wait, the answer is (A).", "A"),
        ("The answer is (B), as\nA) is a metal", "B"),
        ("A) no\nB) yes", "B"),
        ("The answer is B, not option C", "B"),
        ("the answer is a tricky one", None),
        ("The answer is not obvious", None),
        ("I like Bananas", None),
        ("The answer is E", "E"),
        ("The answer is \N{CYRILLIC CAPITAL LETTER VE}", None),
        ("", None),
        ("NaN", None),
        ("(" * 100_000 + "B", None),
        ("answer " * 50_000, None),
    ],
)
def test_what_is_chosen(completion, answer):
    verdict = choice.verify(completion, "B")
    assert (verdict.score, verdict.answer) == (float(answer == "B"), answer)


def test_choices_limit_what_can_be_chosen_and_need_not_be_letters():
    assert choice.verify("The answer is E", {"answer": "B", "choices": ["A", "B"]}).answer is None
    assert choice.verify("The answer is 12", {"answer": 12, "choices": [1, 2, 12]}).score == 1


@pytest.mark.parametrize(
    "reference",
    ["", "Z", None, ["A", "B"], {"answer": "B", "choices": ["A"]}, {"answer": "A", "choices": ["A", "a"]},
     {"answer": "A", "choices": "AB"}, {"choices": ["A"]}, {"answer": "A", "options": ["A"]}],
)  # fmt: skip
def test_complains_and_refuses(reference):
    assert choice.validate(reference).startswith("choice: ")
    with pytest.raises(VerifierError):
        choice.verify("B", reference)


def test_a_good_reference_is_accepted():
    assert choice.validate("B") is None
    assert choice.validate({"answer": "C", "choices": ["A", "B", "C", "D"]}) is None
