"""Where two values differ is named, all of it and nothing else."""

import json

from hypothesis import given
from hypothesis import strategies as st

from posttrain.artifacts.differences import ABSENT, differences, shown

VALUES = st.recursive(
    st.none() | st.booleans() | st.text(max_size=3) | st.integers(min_value=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)


def test_places_are_named_from_the_outside_in():
    old = {"stage": "sft", "parameters": {"betas": [0.9, 0.95], "lora": {"rank": 8}}, "steps": 3.0}
    new = {"stage": "sft", "parameters": {"betas": [0.9, 0.99]}, "steps": 3, "data": []}
    assert [tuple(each) for each in differences(old, new)] == [
        ("data", ABSENT, []),
        ("parameters.betas[1]", 0.95, 0.99),
        ("parameters.lora", {"rank": 8}, ABSENT),
    ]


def test_a_longer_list_is_another_list():
    assert [tuple(each) for each in differences({"after": ["a"]}, {"after": ["a", "b"]})] == [
        ("after", ["a"], ["a", "b"])
    ]


@given(VALUES, VALUES)
def test_equal_values_and_no_others_have_no_differences(old, new):
    assert bool([*differences(old, new)]) == (json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True))
    assert [(each.place, each.new, each.old) for each in differences(old, new)] == [
        tuple(each) for each in differences(new, old)
    ]


def test_what_is_shown_of_a_value_fits_a_line():
    assert shown(ABSENT) == "absent"
    assert shown({"größe": 3}) == '{"größe": 3}'
    assert shown("x" * 100) == f'"{"x" * 59}… (102 characters)'
