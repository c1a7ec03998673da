"""Tiny random policies written to disk: real architectures, 2 layers, 32 wide, one token a character."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

CHARACTERS = string.digits + string.ascii_letters + string.punctuation + " \n"
SPECIAL = ["<pad>", "<eos>", "<unk>"]
CONTEXT = 128

_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_GROUPED = _SIZES | {"num_key_value_heads": 2, "head_dim": 8}
# The windows are shorter than the tests' prompts and completions, or they would test nothing.
_WINDOWED = _GROUPED | {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

ARCHITECTURES: dict[str, dict[str, object]] = {
    "llama": _GROUPED,
    "gemma": _GROUPED,
    "gemma2": _WINDOWED,
    "gemma3_text": _WINDOWED,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "qwen2": _SIZES | {"num_key_value_heads": 2},
    "qwen3_moe": _GROUPED | _EXPERTS,
    # A hybrid (convolution and attention): its cache cannot be repeated.
    "lfm2": _SIZES | {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
}

_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def tiny_policy(
    directory: Path,
    architecture: str,
    chat_template: bool = False,
    seed: int = 0,
    characters: str = CHARACTERS,
    context: int = CONTEXT,
    **config_values: object,
) -> Path:
    """Write a random policy of one of `ARCHITECTURES` and return its directory.

    Its context is `context` tokens, its vocabulary `SPECIAL` and then `characters`. The weights are ten times wider
    than usual, and input and output embeddings are untied: at the usual width a random model is all but uniform, so
    that greedy choices are ties, and a tied one repeats its last token. `config_values` override the architecture's.
    """
    tokenizer = tiny_tokenizer(characters, chat_template, context)
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    common = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": context,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
    }
    config = AutoConfig.for_model(architecture, **(common | ends | ARCHITECTURES[architecture] | config_values))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return Path(directory)


def tiny_tokenizer(
    characters: str = CHARACTERS, chat_template: bool = False, context: int = CONTEXT
) -> PreTrainedTokenizerFast:
    """One token a character of `characters` (ASCII); what is not in them is <unk>.

    A byte-level BPE without merges, because AutoTokenizer rebuilds any tokenizer beside a Qwen2 model as Qwen2's own
    and would drop, for one, the spaces of a word-level tokenizer.
    """
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    symbols = [byte_level.pre_tokenize_str(character)[0][0] for character in characters]
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *symbols])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=context
    )
    if chat_template:
        fast.chat_template = _CHAT_TEMPLATE
    return fast
