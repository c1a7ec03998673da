import pytest

from posttrain.errors import VerifierError
from posttrain.verifiers import exact, regex


@pytest.mark.parametrize(
    ("completion", "reference", "score", "answer"),
    [
        (" Paris\n", "Paris", 1.0, "Paris"),
        ("paris", "Paris", 0.0, "paris"),
        ("PARIS", {"answer": "Paris", "casefold": True}, 1.0, "paris"),
        ("STRASSE", {"answer": "Straße", "casefold": True}, 1.0, "strasse"),
        ('{"a": 1}', '{"a": 1}', 1.0, '{"a": 1}'),
        ("Paris", {"answer": "Paris", "casefold": None}, 1.0, "Paris"),
        ("Paris, London", "Paris", 0.0, "Paris, London"),
        ("b", ["a", "b"], 1.0, "b"),
        ("5", 5.0, 1.0, "5"),
        ("٥", 5, 0.0, "٥"),
        ("", "Paris", 0.0, None),
        ("x" * 1_000_000, "x", 0.0, "x" * 1_000_000),
    ],
)
def test_exact(completion, reference, score, answer):
    verdict = exact.verify(completion, reference)
    assert (verdict.score, verdict.answer) == (score, answer)


@pytest.mark.parametrize("reference", ["", " ", None, True, [], float("nan"), {"answr": "x"}, {}])
def test_exact_complains_and_refuses(reference):
    assert exact.validate(reference).startswith("exact: ")
    with pytest.raises(VerifierError):
        exact.verify("x", reference)


DATE = r"(?P<year>\d{4})-\d\d"


@pytest.mark.parametrize(
    ("completion", "reference", "score", "answer"),
    [
        (" 2024-05 ", {"pattern": DATE}, 1.0, "2024-05"),
        ("on 2024-05", {"pattern": DATE}, 0.0, None),
        ("7", '{"pattern": "[0-9]"}', 1.0, "7"),
        ("on 2024-05", {"pattern": DATE, "search": True}, 1.0, "2024-05"),
        ("2024-05", {"pattern": DATE, "group": "year"}, 1.0, "2024"),
        ("2024-05", {"pattern": DATE, "group": 1, "flags": None}, 1.0, "2024"),
        ("٢٠٢٤-٠٥", {"pattern": DATE}, 1.0, "٢٠٢٤-٠٥"),
        ("٢٠٢٤-٠٥", {"pattern": DATE, "flags": "a"}, 0.0, None),
        ("YES", {"pattern": "yes", "flags": "i"}, 1.0, "YES"),
        ("", {"pattern": "x"}, 0.0, None),
        ("x" * 100_001, {"pattern": "x+"}, None, None),
    ],
)
def test_regex(completion, reference, score, answer):
    verdict = regex.verify(completion, reference)
    assert (verdict.score, verdict.answer) == (score, answer)


@pytest.mark.parametrize(
    "reference",
    [
        "x",
        "{bad json",
        {"pattern": "("},
        {"pattern": 3},
        {"pattern": "x", "flags": "q"},
        {"pattern": "x", "group": 1},
        {"pattern": "x", "group": True},
        {"pattern": "x", "search": "yes"},
        {"patern": "x"},
    ],
)
def test_regex_complains_and_refuses(reference):
    assert regex.validate(reference).startswith("regex: ")
    with pytest.raises(VerifierError):
        regex.verify("x", reference)


def test_regex_complains_of_a_pattern_that_accepts_nothing_at_all():
    assert "empty completion" in regex.validate({"pattern": ".*"})
    assert regex.validate({"pattern": DATE}) is None
