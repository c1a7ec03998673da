"""Rows in, rows out: every format, every unreadable line in its place, the same bytes every time."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.artifacts.digests import digest_file
from posttrain.artifacts.rows import data_files, read_rows, read_table, write_table
from posttrain.errors import DataError

ROWS = [{"prompt": "1+1=", "n": 1}, {"prompt": "é\n", "n": 2}]


def as_jsonl(file):
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def as_json(file):
    file.write_text(json.dumps(ROWS))


def as_parquet(file):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)


@pytest.mark.parametrize(
    ("name", "write", "place"),
    [
        ("rows.jsonl", as_jsonl, "{}:2"),
        ("rows", as_jsonl, "{}:2"),
        ("rows.json", as_json, "{}: row 2"),
        ("rows.parquet", as_parquet, "{}: row 2"),
    ],
)
def test_every_format_gives_the_same_rows_with_their_places(tmp_path, name, write, place):
    write(tmp_path / name)
    read = read_rows(tmp_path / name)
    assert read.rows == ROWS
    assert read.places[1] == place.format(tmp_path / name)
    assert read.malformed == []


def test_a_folder_is_read_in_order_without_what_is_no_data(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"n": 3}\n')
    as_json(tmp_path / "a.json")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.jsonl").write_text('{"n": 4}\n')
    for other in ("posttrain.json", "README.md", "notes.txt"):
        (tmp_path / other).write_text("{}")
    assert [row["n"] for row in read_rows(tmp_path).rows] == [1, 2, 3, 4]


def test_what_was_fetched_is_called_by_its_uri(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.jsonl").write_text("{]")
    [told] = read_rows(tmp_path, "s3://b/rows/").malformed
    assert told.startswith("s3://b/rows/deep/c.jsonl:1: not JSON")
    assert read_rows(tmp_path / "deep" / "c.jsonl", "s3://b/c.jsonl").malformed[0].startswith("s3://b/c.jsonl:1: ")


def test_a_lone_object_is_a_row(tmp_path):
    (tmp_path / "one.json").write_text('{"n": 1}')
    assert read_rows(tmp_path / "one.json").rows == [{"n": 1}]


def test_malformed_lines_are_counted_with_their_numbers(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"n": 1}\n\n{"n": 2\n[1]\n   \n"text"\nnull\n\xff\xfe\n{"n": 3}')
    read = read_rows(file)
    assert read.rows == [{"n": 1}, {"n": 3}]
    assert read.places == [f"{file}:1", f"{file}:9"]
    assert [complaint.split(": ")[0] for complaint in read.malformed] == [f"{file}:{line}" for line in (3, 4, 6, 7, 8)]
    assert "not JSON" in read.malformed[0]
    assert "list instead of an object" in read.malformed[1]
    assert "NoneType instead of an object" in read.malformed[3]
    assert not any("\n" in complaint for complaint in read.malformed)


def test_lines_that_python_will_not_read_are_counted(tmp_path):
    deep, long = b'{"n":' + b"[" * 100_000, b'{"n": ' + b"1" * 10_000 + b"}"
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([deep, long, b'{"n": 3}']))
    read = read_rows(tmp_path / "rows.jsonl")
    assert read.rows == [{"n": 3}]
    assert [": not JSON (" in complaint for complaint in read.malformed] == [True, True]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, name):
    (tmp_path / name).write_text('{"n": 1}', encoding="utf-8-sig")
    assert read_rows(tmp_path / name).rows == [{"n": 1}]


def test_an_entry_of_a_list_that_is_no_object_is_counted(tmp_path):
    (tmp_path / "rows.json").write_text('[{"n": 1}, 5]')
    read = read_rows(tmp_path / "rows.json")
    assert (len(read.rows), read.malformed) == (1, [f"{tmp_path / 'rows.json'}: row 2: int instead of an object"])


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("rows.json", b"[{]", "not JSON"),
        ("rows.json", b"\xff\xfe\xfd", "not JSON"),
        ("rows.json", b"[" * 100_000, "not JSON"),
        ("rows.parquet", b"nothing of the kind", "not a Parquet file"),
        ("rows.csv", b"a,b", "unknown format '.csv'; use .jsonl, .json, .parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as raised:
        read_rows(tmp_path / name)
    line = str(raised.value)
    assert name in line
    assert what in line
    assert "\n" not in line


def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(DataError, match="no such file or directory"):
        data_files(tmp_path / "missing")
    with pytest.raises(DataError, match=r"no \.jsonl, \.json, \.parquet file in it"):
        data_files(tmp_path)


VALUES = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(st.characters(codec="utf-8"), max_size=5)
JSON = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("k"), inner))


@given(st.lists(st.fixed_dictionaries({"n": st.integers(0, 9), "any": JSON}), min_size=1, max_size=5))
def test_a_table_keeps_any_json_and_is_the_same_bytes_twice(tmp_path_factory, rows):
    directory = tmp_path_factory.mktemp("tables")
    write_table(rows, directory / "first", ["any"])
    write_table([dict(reversed(row.items())) for row in rows], directory / "second", ["any"])
    assert digest_file(directory / "first") == digest_file(directory / "second")
    (directory / "first").rename(directory / "first.parquet")
    assert list(read_table(directory / "first.parquet", ["any"])) == rows


def test_rows_with_other_columns_share_a_table(tmp_path):
    write_table([{"a": 1}, {"b": "x"}], tmp_path / "t.parquet")
    assert list(read_table(tmp_path / "t.parquet")) == [{"a": 1, "b": None}, {"a": None, "b": "x"}]


def test_a_column_of_two_types_is_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match=r"t\.parquet: column 'a' mixes types") as raised:
        write_table([{"a": 1}, {"a": "x"}], tmp_path / "t.parquet")
    assert "\n" not in str(raised.value)


def test_a_missing_table_names_the_artifact(tmp_path):
    with pytest.raises(DataError, match=r"no problems\.parquet in it; it is not an artifact of this kind"):
        list(read_table(tmp_path / "problems.parquet"))
