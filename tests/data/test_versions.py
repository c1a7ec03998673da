"""Data versions: which count, in what order, and what tells one from another."""

import pytest

from posttrain.data.versions import data_versions
from posttrain.errors import DataError


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


def test_a_version_counts_once_its_marker_is_there(tmp_path):
    put(tmp_path, "a/problems.jsonl", "a/_SUCCESS", "b/problems.jsonl")
    found = data_versions(f"{tmp_path}/")
    assert ([version.name for version in found.ready], found.unready) == (["a"], ["b"])
    put(tmp_path, "b/_SUCCESS")
    assert [version.name for version in data_versions(str(tmp_path)).ready] == ["a", "b"]


def test_without_a_marker_every_folder_counts(tmp_path):
    put(tmp_path, "a/problems.jsonl", "notes.txt")
    assert [version.name for version in data_versions(str(tmp_path), marker="").ready] == ["a"]


def test_numbers_in_names_count_as_numbers(tmp_path):
    names = ["2026-1-9", "2026-01-10", "v2", "v10", "v9.1", "v9"]
    put(tmp_path, *(f"{name}/_SUCCESS" for name in names))
    assert [version.name for version in data_versions(str(tmp_path)).ready] == [
        "2026-1-9",
        "2026-01-10",
        "v2",
        "v9",
        "v9.1",
        "v10",
    ]


def test_a_file_or_folder_is_the_input_of_its_name(tmp_path):
    put(tmp_path, "a/_SUCCESS", "a/problems.jsonl", "a/demos/part-0.parquet", "a/demos/part-1.parquet", "a/.hidden")
    version = data_versions(str(tmp_path)).ready[0]
    assert version.inputs == {"problems": f"{tmp_path}/a/problems.jsonl", "demos": f"{tmp_path}/a/demos"}


def test_two_of_a_name_are_refused(tmp_path):
    put(tmp_path, "a/_SUCCESS", "a/problems.jsonl", "a/problems.parquet")
    with pytest.raises(DataError, match=r"both problems.jsonl and problems.parquet in it; leave one"):
        data_versions(str(tmp_path))


def test_a_version_that_is_written_again_is_another(tmp_path):
    put(tmp_path, "a/_SUCCESS", "a/problems.jsonl")
    before = data_versions(str(tmp_path)).ready[0]
    assert data_versions(str(tmp_path)).ready[0].id == before.id
    (tmp_path / "a" / "problems.jsonl").write_text("other")
    after = data_versions(str(tmp_path)).ready[0]
    assert (after.name, after.id == before.id) == (before.name, False)
    assert before.id.startswith("a@")
