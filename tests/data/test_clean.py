"""What counts as a duplicate, as held out, and as too much."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.artifacts.problems import Problem
from posttrain.data.clean import Candidate, Cleaning, Contamination, identity
from posttrain.errors import DataError

SENTENCE = "a train leaves at nine and another at ten so when do they meet again in the evening"


def problem(prompt, name="held"):
    return Problem(id=name, prompt=prompt, verifier="exact", reference="1")


def candidate(value, prompt="free"):
    return Candidate(value, f"rows.jsonl:{value}", identity(value), prompt)


def cleaning(total, **bounds):
    return Cleaning("rows.jsonl", **{"max_malformed": 0.1, "max_contaminated": 0.5, **bounds}, total=total)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (SENTENCE, True),
        (SENTENCE.upper().replace(" ", "  \n"), True),
        (f"Please solve: {SENTENCE}, thank you!", True),
        (" ".join(SENTENCE.split()[:13]), True),
        (" ".join(SENTENCE.split()[:12]), False),
        (" ".join(reversed(SENTENCE.split())), False),
        ("", False),
    ],
)
def test_a_prompt_is_held_out_when_equal_or_when_thirteen_words_run_alike(text, found):
    assert Contamination([problem(SENTENCE)]).find(text) == ("held" if found else None)


def test_short_prompts_must_be_equal():
    contamination = Contamination([problem("1+1=")])
    assert contamination.find(" 1+1= ") == "held"
    assert contamination.find("11+1=") is None


def test_messages_are_searched_as_their_text():
    contamination = Contamination([problem([{"role": "user", "content": SENTENCE}])])
    assert contamination.find(SENTENCE) == "held"


def test_nothing_held_out_finds_nothing():
    assert Contamination([]).find(SENTENCE) is None


@given(st.lists(st.text()), st.lists(st.text()))
def test_identities_agree_exactly_when_the_parts_do(first, second):
    assert (identity(*first) == identity(*second)) == (first == second)


@pytest.mark.parametrize(("one", "other"), [("Yes", "yes"), ("a b", "a  b"), (1, "1"), (None, ""), (True, 1)])
def test_what_differs_in_case_spaces_or_type_is_no_duplicate(one, other):
    assert identity(one) != identity(other)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 3))
def test_rows_read_are_kept_or_counted(values, malformed):
    total = len(values) + malformed
    counter = cleaning(total, max_malformed=1, max_contaminated=1)
    counter.malformed([f"rows.jsonl:{n}: not JSON" for n in range(malformed)])
    held = Contamination([problem("the held out one")])
    candidates = [candidate(value, "the held out one" if value == 5 else str(value)) for value in values]
    free = set(values) - {5}
    if not free:
        with pytest.raises(DataError):
            counter.keep(candidates, held)
        return
    kept = counter.keep(candidates, held)
    assert kept == sorted(free, key=values.index)
    assert counter.counts["rows_kept"] == len(kept)
    dropped = sum(count for name, count in counter.counts.items() if name.startswith("dropped_"))
    assert counter.counts["rows_read"] == total == len(kept) + dropped
    assert counter.counts.get("dropped_held_out", 0) == values.count(5)


def test_unusable_rows_of_every_kind_count_towards_one_share():
    counter = cleaning(100)
    counter.malformed(["rows.jsonl:1: not JSON"] * 6)
    with pytest.raises(
        DataError, match=r"rows\.jsonl:7: empty \(12 of 100 rows cannot be used, 12\.0%, allowed 10\.0%"
    ):
        counter.malformed(["rows.jsonl:7: empty"] * 6, "unusable")


def test_a_share_at_the_bound_is_not_over_it():
    counter = cleaning(10)
    counter.malformed(["rows.jsonl:1: not JSON"])
    assert counter.counts["dropped_malformed"] == 1


@pytest.mark.parametrize("bound", [0.1, 1])
def test_nothing_but_unusable_rows_is_always_an_error(bound):
    with pytest.raises(DataError, match=r"mend the rows or raise max_malformed"):
        cleaning(2, max_malformed=bound).malformed(["rows.jsonl:1: not JSON"] * 2)


def test_too_much_held_out_names_the_row_and_the_problem():
    with pytest.raises(DataError) as raised:
        cleaning(4, max_contaminated=0.2).keep(
            [candidate(1, "1+1="), candidate(2), candidate(3), candidate(4)], Contamination([problem("1+1=")])
        )
    line = str(raised.value)
    assert line.startswith(
        "rows.jsonl:1: its prompt is the held-out problem 'held' (1 of 4 rows, 25.0%, allowed 20.0%)"
    )
    assert "raise max_contaminated" in line
