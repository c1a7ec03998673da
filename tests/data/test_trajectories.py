"""All six of TRL's dataset shapes are recognised, as text and as messages, and spoilt rows are named."""

import pytest

from posttrain.artifacts.rows import Rows
from posttrain.artifacts.trajectories import SHAPES, is_conversational, shape_of
from posttrain.data.clean import Cleaning
from posttrain.data.trajectories import parse_trajectories, searched_text
from posttrain.errors import DataError

USER = [{"role": "user", "content": "1+1="}]
ANSWER = [{"role": "assistant", "content": "2"}]

# One row for each type in TRL's docs, "Dataset formats and types".
STANDARD = {
    "preference": {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
    "stepwise": {"prompt": "1+1=", "completions": ["one", "two"], "labels": [True, False]},
    "unpaired": {"prompt": "1+1=", "completion": "3", "label": False},
    "prompt-completion": {"prompt": "1+1=", "completion": "2"},
    "text": {"text": "1+1=2"},
}
CONVERSATIONAL = {
    "preference": {"prompt": USER, "chosen": ANSWER, "rejected": ANSWER},
    "unpaired": {"prompt": USER, "completion": ANSWER, "label": True},
    "prompt-completion": {"prompt": USER, "completion": ANSWER},
    "messages": {"messages": USER + ANSWER},
}
ALL = [*((name, row, False) for name, row in STANDARD.items()), *((n, row, True) for n, row in CONVERSATIONAL.items())]


def parse(*rows, max_malformed=0.0):
    read = Rows()
    for number, row in enumerate(rows, start=1):
        read.add(row, f"rows.jsonl:{number}")
    cleaning = Cleaning("rows.jsonl", max_malformed, 0.1, len(rows))
    return parse_trajectories(read, "rows.jsonl", cleaning), cleaning.counts


def test_every_shape_has_an_example():
    assert {name for name, _, _ in ALL} == {shape.name for shape in SHAPES}


@pytest.mark.parametrize(("name", "row", "conversational"), ALL, ids=lambda value: str(value)[:20])
def test_a_shape_is_recognised_and_kept_as_it_is(name, row, conversational):
    (candidate,), counts = parse({**row, "reward": 0.5, "note": "mine"})
    assert shape_of(candidate.value, "here").name == name
    assert candidate.value == {**row, "reward": 0.5, "source": "rows.jsonl"}
    assert counts["columns_ignored"] == 1
    if name != "stepwise":
        assert is_conversational(row, shape_of(row, "here")) is conversational
    assert "1+1=" in searched_text(row, shape_of(row, "here"))


def test_columns_of_no_shape_are_named_with_the_shapes_there_are():
    with pytest.raises(DataError) as raised:
        parse({"question": "1+1=", "answer": "2"})
    line = str(raised.value)
    assert line.startswith("rows.jsonl:1: columns ['answer', 'question'] form no known trajectory shape")
    for shape in SHAPES:
        assert f"{shape.name}: {' + '.join(shape.columns)}" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("spoilt", "complaint"),
    [
        ({"prompt": "", "completion": "2"}, "prompt='' is empty"),
        ({"prompt": " \n", "completion": "2"}, r"prompt=' \n' is empty"),
        ({"prompt": 5, "completion": "2"}, "prompt=5 is neither text nor a list of messages"),
        ({"prompt": [], "completion": "2"}, "prompt=[] is empty"),
        ({"prompt": [{"content": "x"}], "completion": "2"}, "prompt[0]={'content': 'x'} has no role"),
        ({"prompt": [{"role": "user"}], "completion": "2"}, "prompt[0].content=None is not text"),
        ({"prompt": "1+1=", "completion": " "}, "completion=' ' is empty or not text"),
        ({"prompt": "1+1=", "completion": 2}, "completion=2 is empty or not text"),
        ({"prompt": "1+1=", "completion": []}, "completion=[] is empty"),
        ({"prompt": "1+1="}, "no 'completion', which a prompt-completion row needs"),
        ({"completion": "2"}, "no 'prompt', which a prompt-completion row needs"),
    ],
)
def test_a_spoilt_row_is_named_or_counted(spoilt, complaint):
    good = STANDARD["prompt-completion"]
    with pytest.raises(DataError) as raised:
        parse(good, spoilt)
    assert str(raised.value).startswith(f"rows.jsonl:2: {complaint}")
    assert "\n" not in str(raised.value)
    candidates, counts = parse(good, spoilt, max_malformed=0.5)
    assert (len(candidates), counts["dropped_unusable"]) == (1, 1)


@pytest.mark.parametrize("column", ["prompt", "completion"])
def test_text_and_messages_in_one_column_are_refused(column):
    row = STANDARD["prompt-completion"]
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: '{column}' is list where earlier rows have str; use text or"):
        parse(row, row | {column: CONVERSATIONAL["prompt-completion"][column]})
