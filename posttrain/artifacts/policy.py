"""Policies: a causal language model as a Hugging Face directory, inspected without loading its weights.

What is refused here is refused before any GPU work: pickle weights (they can run code), models that bring code of
their own, directories that are not a model. What must agree between stages is fingerprinted: tokenizer, chat template
and EOS tokens (OLMo 3 shipped models whose stages disagreed on a template).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.artifacts.digests import digest_file, digest_value
from posttrain.errors import PolicyError

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
# Facts that two policies must share before one may teach, reward or follow the other.
SHARED_FACTS = ("tokenizer", "chat_template", "eos")


def inspect_policy(directory: Path) -> dict[str, str | int | float]:
    """The fingerprint of a policy directory.

    Returns:
        `architecture`, `parameters` (count), `context` (tokens, 0 = unstated), `vocabulary` (tokens), and the digests
        `tokenizer`, `chat_template` ('' without one) and `eos` (comma-separated token ids).

    Raises:
        PolicyError: it is not a policy that may be loaded; the message says which file and why.
    """
    config = _config(directory)
    _refuse_unsafe(directory, config)
    tokenizer = [name for name in _TOKENIZER_FILES if (directory / name).is_file()]
    if not tokenizer:
        raise PolicyError(
            f"{directory}: no tokenizer ({', '.join(_TOKENIZER_FILES)}); save the tokenizer beside the model"
        )
    text = config.get("text_config", config)
    return {
        "architecture": str((config.get("architectures") or [config.get("model_type", "unknown")])[0]),
        "parameters": count_parameters(directory),
        "context": int(text.get("max_position_embeddings") or text.get("n_positions") or 0),
        "vocabulary": int(text.get("vocab_size") or 0),
        "tokenizer": digest_value([digest_file(directory / name) for name in tokenizer]),
        "chat_template": _chat_template(directory),
        "eos": ",".join(map(str, eos_ids(directory))),
    }


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError(f"{file}: not text ({error}); save the model again") from None


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise PolicyError(f"{file}: not JSON ({error}); save the model again") from None
    if not isinstance(value, dict):
        raise PolicyError(f"{file}: {type(value).__name__} instead of an object; save the model again")
    return value


def _config(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise PolicyError(f"{directory}: not a directory; give a Hugging Face model directory")
    if not (directory / "config.json").is_file():
        raise PolicyError(f"{directory}: no config.json, so not a Hugging Face model directory")
    return _read_json(directory / "config.json")


def _refuse_unsafe(directory: Path, config: dict[str, Any]) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        if "auto_map" in (config if name == "config.json" else _read_json(directory / name)):
            raise PolicyError(
                f"{directory / name}: auto_map asks for remote code (trust_remote_code), which is never run here; "
                "use an architecture that Transformers implements"
            )
    weights = sorted(directory.glob("*.safetensors"))
    pickles = sorted(path for path in directory.iterdir() if path.suffix in PICKLES)
    if pickles and not weights:
        raise PolicyError(
            f"{pickles[0]}: pickle weights can run code when loaded; save them as safetensors "
            "(model.save_pretrained does)"
        )
    if not weights:
        raise PolicyError(f"{directory}: no *.safetensors weights; save the model with model.save_pretrained")


def _chat_template(directory: Path) -> str:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return digest_value(_text(file))  # as the same text in tokenizer_config.json
    template = _read_json(directory / "tokenizer_config.json").get("chat_template")
    return digest_value(template) if template else ""


def eos_ids(directory: Path) -> list[int]:
    """The token ids that end a completion, sorted: generation config first, else the model config."""
    for name in ("generation_config.json", "config.json"):
        eos = _read_json(directory / name).get("eos_token_id")
        if eos is not None:
            return sorted(eos) if isinstance(eos, list) else [eos]
    return []


def count_parameters(directory: Path) -> int:
    """Number of weights, from the safetensors headers alone (tied weights are stored, so counted, once).

    Raises:
        PolicyError: a file is missing, cut short or not safetensors.
    """
    total = 0
    for file in weight_files(directory):
        for name, tensor in safetensors_header(file).items():
            if name != "__metadata__":
                size = 1
                for dimension in tensor["shape"]:
                    size *= dimension
                total += size
    return total


def weight_files(directory: Path) -> list[Path]:
    """The files that Transformers would load; others, as `consolidated.safetensors`, repeat the same weights."""
    whole = directory / "model.safetensors"
    if whole.is_file():
        return [whole]
    index = _read_json(directory / "model.safetensors.index.json")
    shards = [directory / name for name in sorted(set(index.get("weight_map", {}).values()))]
    for shard in shards:
        if not shard.is_file():
            raise PolicyError(f"{shard}: missing, but model.safetensors.index.json names it; fetch it again")
    return shards or sorted(directory.glob("*.safetensors"))


def safetensors_start(tensors: Mapping[str, Any], about: Mapping[str, str] | None = None) -> bytes:
    """How a weight file begins: its header and that one's length, so padded that data starts at a multiple of eight.

    Args:
        tensors: name → `dtype`, `shape` and `data_offsets`.
        about: more of `__metadata__`.
    """
    header = json.dumps({"__metadata__": {"format": "pt", **(about or {})}, **tensors}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header


def safetensors_header(file: Path) -> dict[str, Any]:
    """A weight file's header: name → `dtype`, `shape` and `data_offsets`, and maybe `__metadata__`.

    Raises:
        PolicyError: the file is cut short or not safetensors.
    """
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        try:
            header: dict[str, Any] = json.loads(stream.read(min(length, 100_000_000)))
            end = max((t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"), default=0)
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
            raise PolicyError(f"{file}: not a safetensors file; save or fetch the weights again") from None
    if file.stat().st_size != 8 + length + end:
        raise PolicyError(
            f"{file}: cut short ({file.stat().st_size} bytes, header says {8 + length + end}); fetch it again"
        )
    return header
