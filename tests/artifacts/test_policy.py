"""Policies are fingerprinted from their files alone, and what must not be loaded is refused by name."""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.artifacts.policy import count_parameters, inspect_policy
from posttrain.errors import PolicyError
from tests.tiny import ARCHITECTURES, CHARACTERS, CONTEXT, SPECIAL, tiny_policy


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture
def policy(llama, tmp_path):
    """A copy to break."""
    return shutil.copytree(llama, tmp_path / "policy")


def edit(file, **changes):
    """Change keys of a JSON file; None removes one."""
    value = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: entry for key, entry in value.items() if entry is not None}))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_are_counted_as_torch_counts_them(tmp_path, architecture):
    facts = inspect_policy(tiny_policy(tmp_path, architecture))
    assert facts["parameters"] == AutoModelForCausalLM.from_pretrained(tmp_path).num_parameters()
    assert facts["architecture"].endswith(("ForCausalLM", "LMHeadModel"))
    assert (facts["context"], facts["vocabulary"]) == (CONTEXT, len(SPECIAL) + len(CHARACTERS))
    assert facts["eos"] == str(SPECIAL.index("<eos>"))


def test_tied_weights_count_once_and_shards_add_up(tmp_path):
    config = AutoConfig.for_model("gpt2", vocab_size=50, n_embd=32, n_layer=2, n_head=4, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for directory in ("whole", "shards"):
        assert count_parameters(tmp_path / directory) == model.num_parameters()


def test_a_missing_shard_is_named(tmp_path):
    config = AutoConfig.for_model("gpt2", vocab_size=50, n_embd=32, n_layer=2, n_head=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path, max_shard_size="50KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(PolicyError, match=f"{shard.name}: missing"):
        count_parameters(tmp_path)


def test_the_same_weights_under_another_name_are_not_counted_twice(policy):
    shutil.copyfile(policy / "model.safetensors", policy / "consolidated.safetensors")
    (whole,) = {count_parameters(policy), AutoModelForCausalLM.from_pretrained(policy).num_parameters()}
    assert whole


def pickled(policy):
    (policy / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(2)}, policy / "pytorch_model.bin")


def cut(policy, size):
    weights = policy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])


@pytest.mark.parametrize(
    ("break_it", "mentions"),
    [
        (pickled, ["pytorch_model.bin", "pickle", "safetensors"]),
        (lambda p: (p / "model.safetensors").unlink(), ["no *.safetensors weights", "save_pretrained"]),
        (lambda p: edit(p / "config.json", auto_map={"AutoModel": "x.Y"}), ["config.json", "trust_remote_code"]),
        (lambda p: edit(p / "tokenizer_config.json", auto_map={}), ["tokenizer_config.json", "trust_remote_code"]),
        (lambda p: (p / "config.json").unlink(), ["no config.json"]),
        (lambda p: (p / "config.json").write_text("{"), ["config.json", "not JSON"]),
        (lambda p: (p / "config.json").write_bytes(b"\xaa"), ["config.json", "not text"]),
        (lambda p: (p / "chat_template.jinja").write_bytes(b"\xaa"), ["chat_template.jinja", "not text"]),
        (lambda p: (p / "config.json").write_text("[]"), ["config.json", "list instead of an object"]),
        (lambda p: (p / "tokenizer.json").unlink(), ["no tokenizer", "beside the model"]),
        (lambda p: cut(p, -1), ["model.safetensors", "cut short", "fetch it again"]),
        (lambda p: cut(p, 100), ["model.safetensors", "not a safetensors file"]),
        (lambda p: cut(p, 5), ["model.safetensors", "not a safetensors file"]),
        (lambda p: cut(p, 0), ["model.safetensors", "not a safetensors file"]),
        (
            lambda p: (p / "model.safetensors").write_bytes(struct.pack("<Q", 9) + b'{"a": []}'),
            ["model.safetensors", "not a safetensors file"],
        ),
    ],
    ids=[
        *["pickle", "no weights", "remote model code", "remote tokenizer code", "no config", "cut config"],
        *["config is no text", "template is no text"],
        *["config is a list", "no tokenizer", "last byte lost", "cut header", "cut length", "empty", "odd header"],
    ],
)
def test_what_must_not_be_loaded_is_refused(policy, break_it, mentions):
    break_it(policy)
    with pytest.raises(PolicyError) as raised:
        inspect_policy(policy)
    line = str(raised.value)
    assert "\n" not in line
    for mention in mentions:
        assert mention in line


@pytest.mark.parametrize("name", ["missing", "file"])
def test_what_is_not_a_directory_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(PolicyError, match="not a directory; give a Hugging Face model directory"):
        inspect_policy(tmp_path / name)


@pytest.mark.parametrize(
    ("generation", "model", "eos"),
    [(7, 1, "7"), ([9, 3], 1, "3,9"), (None, 1, "1"), (None, [4, 2], "2,4"), (None, None, "")],
)
def test_eos_comes_from_the_generation_config_first(policy, generation, model, eos):
    edit(policy / "generation_config.json", eos_token_id=generation)
    edit(policy / "config.json", eos_token_id=model)
    assert inspect_policy(policy)["eos"] == eos


def test_eos_needs_no_generation_config(policy):
    (policy / "generation_config.json").unlink()
    assert inspect_policy(policy)["eos"] == "1"


def test_a_chat_template_is_the_same_wherever_it_is_kept(policy):
    assert inspect_policy(policy)["chat_template"] == ""
    (policy / "chat_template.jinja").write_text("{{ messages }}é")
    beside = inspect_policy(policy)["chat_template"]
    (policy / "chat_template.jinja").unlink()
    edit(policy / "tokenizer_config.json", chat_template="{{ messages }}é")
    assert inspect_policy(policy)["chat_template"] == beside != ""
    edit(policy / "tokenizer_config.json", chat_template="{{ messages }}e")
    assert inspect_policy(policy)["chat_template"] != beside


def test_other_weights_leave_the_tokenizer_and_another_token_does_not(policy):
    before = inspect_policy(policy)["tokenizer"]
    save_file({"w": torch.zeros(3)}, policy / "model.safetensors")
    assert inspect_policy(policy)["tokenizer"] == before
    text = (policy / "tokenizer.json").read_text()
    (policy / "tokenizer.json").write_text(text.replace("<unk>", "<UNK>"))
    assert inspect_policy(policy)["tokenizer"] != before


def test_a_multimodal_config_is_read_through_its_text_part(policy):
    text = {"max_position_embeddings": 77, "vocab_size": 55}
    edit(policy / "config.json", text_config=text)
    facts = inspect_policy(policy)
    assert (facts["context"], facts["vocabulary"]) == (77, 55)
