"""Weights that are kept in parts, one a process, become the file that they would have been."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.errors import DamagedError
from posttrain.storage.joining import PARTS, files_of, join, own

WHOLE = {
    "a.weight": torch.arange(21, dtype=torch.bfloat16).reshape(7, 3),
    "b.weight": torch.randn(2),  # the third process has none of it
    "c.scale": torch.tensor([3], dtype=torch.int8),
}
CUTS = {"a.weight": [0, 9, 18, 21], "b.weight": [0, 1, 2, 2]}


def kept_in_parts(directory):
    for rank in range(3):
        runs = {name: WHOLE[name].flatten()[cuts[rank] : cuts[rank + 1]] for name, cuts in CUTS.items()}
        about = {name: [list(WHOLE[name].shape), cuts[rank]] for name, cuts in CUTS.items()}
        file = directory / f"{own(rank)}.model.safetensors"
        save_file(runs, file, {"format": "pt", PARTS: json.dumps(about)})


def test_parts_are_joined_with_what_all_share(tmp_path):
    kept_in_parts(tmp_path)
    save_file({"c.scale": WHOLE["c.scale"]}, tmp_path / "model.safetensors")
    join(tmp_path, "adapter_model.safetensors")
    join(tmp_path, "model.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    joined = load_file(tmp_path / "model.safetensors")
    assert joined.keys() == WHOLE.keys()
    assert all(torch.equal(joined[name], WHOLE[name]) and joined[name].dtype == WHOLE[name].dtype for name in WHOLE)


def test_a_part_that_is_missing_is_named(tmp_path):
    kept_in_parts(tmp_path)
    (tmp_path / f"{own(1)}.model.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"of (42|8) bytes of [ab]\.weight are in 2 parts"):
        join(tmp_path, "model.safetensors")


def test_a_process_reads_its_own_files_and_what_all_share():
    names = ["model.safetensors", "rank-00001.json", "rank-00010.json", "rank-00001.model.safetensors"]
    assert [name for name in names if files_of(1)(name)] == [names[0], names[1], names[3]]
