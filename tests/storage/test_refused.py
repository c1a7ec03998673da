"""What is no model, and what is no place for one, is refused in one line with the remedy, and nothing is written."""

import os
from datetime import UTC, datetime

import pytest

from posttrain.errors import ConfigError, ContractError, DataError
from posttrain.storage import fetch, publish
from posttrain.storage.layout import mark
from posttrain.storage.s3 import S3Store
from posttrain.storage.store import open_store
from tests.s3 import BUCKET, place, s3, s3_server

__all__ = ["place", "s3", "s3_server"]
pytestmark = pytest.mark.xdist_group("s3")


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_text(name)
    return tmp_path / "model"


@pytest.mark.parametrize("kind", ["folder", "nothing", "pipe"])
def test_what_is_no_file_is_neither_fetched_nor_published(place, model, tmp_path, kind):
    if kind == "pipe":
        os.mkfifo(model / "odd")
    else:
        (tmp_path / "folder").mkdir()
        (model / "odd").symlink_to(tmp_path / kind)
    what = "no file" if kind == "pipe" else "a link to a directory or to nothing"
    for act in (lambda: publish(model, place), lambda: fetch(str(model), tmp_path / "scratch")):
        with pytest.raises(DataError, match=f"odd: {what} cannot be taken along; put the files themselves there, or"):
            act()
    assert not list(open_store(place).list())


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["../../escaped"], "'../../escaped', which leads out of its directory; rename the object"),
        (["/escaped"], "'/escaped', which leads out of its directory; rename the object"),
        (["a//escaped"], "'a//escaped', which is no path of a file; rename it a/escaped"),
        (["a/./escaped"], "'a/./escaped', which is no path of a file; rename it a/escaped"),
        (["a", "a/escaped"], "has an object 'a' beside 'a/escaped'; rename or remove one"),
    ],
)
def test_names_that_no_directory_can_have_are_not_fetched(s3, tmp_path, monkeypatch, names, what):
    about = {"Size": 1, "LastModified": datetime.now(UTC), "ETag": ""}
    listed = [{"Key": f"base/{name}", **about} for name in names]
    monkeypatch.setattr(S3Store, "_pages", lambda *_, **__: [{"Contents": listed}])  # the server makes no such keys
    with pytest.raises(DataError) as raised:
        fetch(f"s3://{BUCKET}/base", tmp_path / "deep" / "scratch")
    assert what in str(raised.value)
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("key", ["..", "a/../b", "a/./b", "a/.."])
def test_a_uri_that_climbs_is_refused(s3, model, tmp_path, key):
    for act in (lambda uri: publish(model, uri), lambda uri: fetch(uri, tmp_path / "scratch")):
        with pytest.raises(ConfigError, match="mean nothing in a key; write it out"):
            act(f"s3://{BUCKET}/{key}")


def test_nothing_is_published_among_other_things(place, model):
    store = open_store(place)
    store.write("other.bin", b"")
    with pytest.raises(
        ContractError, match=r"holds something else \(other\.bin\); choose another|exists already; choose"
    ):
        publish(model, place)
    assert [entry.name for entry in store.list()] == ["other.bin"]


def test_what_a_try_left_behind_is_taken_over(s3, model):
    s3.put("base/config.json", b"half of it")
    s3.put("base/README.md")
    publish(model, f"s3://{BUCKET}/base")
    assert open_store(f"s3://{BUCKET}/base").read("config.json") == b"config.json"


def test_checkpoints_are_not_fetched_as_a_model(place, tmp_path):
    mark(open_store(place))
    with pytest.raises(
        DataError, match="holds a run's checkpoints; write one as a model first, posttrain checkpoints ex"
    ):
        fetch(place, tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()
