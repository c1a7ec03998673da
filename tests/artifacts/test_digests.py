"""Digests name the content: not where it lies, when it was written, or what the README says."""

import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.artifacts.digests import digest_directory, digest_file, digest_of, digest_value

FILES = {"config.json": b"{}", "model.safetensors": b"\x00" * 1000, "deep/er/rows.parquet": b"PAR1"}


def written(directory, files):
    for name, content in files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return directory


def digest(directory):
    return digest_of(digest_directory(directory))


@pytest.mark.parametrize("content", [b"", b"a", b"\x00\xff" * 700_000])
def test_a_files_digest_is_the_plain_sha256(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert digest_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_order_of_writing_and_times_do_not_matter(tmp_path):
    forth = written(tmp_path / "forth", FILES)
    back = written(tmp_path / "back", dict(reversed(FILES.items())))
    os.utime(back / "config.json", (1, 1))
    (back / "config.json").chmod(0o600)
    assert digest(forth) == digest(back)


def test_an_artifacts_digest_is_of_sorted_pairs():
    pairs = {"b": "2", "a": "1"}
    assert digest_of(pairs) == hashlib.sha256(b'[["a", "1"], ["b", "2"]]').hexdigest()
    assert digest_of(dict(reversed(pairs.items()))) == digest_of(pairs)


@pytest.mark.parametrize("name", ["README.md", "posttrain.json", ".gitattributes", "model.lock", ".cache/x", "deep/.x"])
def test_what_is_not_content_does_not_matter(tmp_path, name):
    plain = digest(written(tmp_path / "plain", FILES))
    beside = written(tmp_path / "beside", FILES | {name: b"anything"})
    assert digest(beside) == plain
    assert name not in digest_directory(beside)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("position", [0, -1])
def test_one_byte_makes_another_artifact(tmp_path, name, position):
    content = bytearray(FILES[name])
    content[position] ^= 1
    changed = digest(written(tmp_path / "changed", FILES | {name: bytes(content)}))
    assert changed != digest(written(tmp_path / "plain", FILES))


def test_a_name_is_content(tmp_path):
    renamed = {("rows.parquet" if "rows" in name else name): content for name, content in FILES.items()}
    assert digest(written(tmp_path / "renamed", renamed)) != digest(written(tmp_path / "plain", FILES))


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
def test_a_values_digest_ignores_the_order_of_keys(value):
    value = {key.encode(errors="replace").decode(): number for key, number in value.items() if not _surrogate(number)}
    assert digest_value(dict(reversed(value.items()))) == digest_value(value)


def _surrogate(value):
    return isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value)
