"""Evaluation sampling: ours against `model.generate`, in samples per second.

    PYTHONPATH=. python benchmarks/sampling.py

Two shapes of evaluation on a small Qwen2 (hidden 128, 4 layers, 20 tokens), both with random weights, so completions
end after about 20 tokens where they may be that long. Baselines, both with a plain loop over `generate`:

    plain   8 rows at a time, TRL's default per_device_train_batch_size
    wide    as many rows at a time as ours

Neither baseline returns log-probabilities; ours does. Text is decoded in all three. The repetitions are interleaved,
so that a busy machine slows all alike; the ratio is taken within a repetition. The plain loop takes a quarter of the
prompts, which does not change its speed, as its batches are far smaller than that.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

from posttrain.generation.decoding import Decoding
from posttrain.generation.tokenizer import render
from posttrain.generation.transformers import load_policy, sample
from tests.tiny import tiny_tokenizer

ROWS = 512
TRL_ROWS = 8
CHARACTERS = "0123456789+-*/()= "


@dataclass(frozen=True)
class Shape:
    name: str
    prompts: int
    lengths: tuple[int, int]
    decoding: Decoding


SHAPES = [
    Shape("short", 8, (7, 7), Decoding(samples=64, max_new_tokens=8)),
    Shape("long", 16, (40, 80), Decoding(samples=16, max_new_tokens=64)),
]


def small_qwen2(directory: Path) -> tuple[Any, Any]:
    """A random policy with a context of 256 tokens."""
    tokenizer = tiny_tokenizer(CHARACTERS)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return load_policy(directory)


def generate_loop(model: Any, tokenizer: Any, prompts: list[str], decoding: Decoding, rows: int) -> list[str]:
    """The usual loop: every sample a row, `rows` rows at a time, in the order of the prompts."""
    repeated = [render(tokenizer, prompt) for prompt in prompts for _ in range(decoding.samples)]
    texts: list[str] = []
    for start in range(0, len(repeated), rows):
        batch = tokenizer.pad({"input_ids": repeated[start : start + rows]}, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            sequences = model.generate(
                **batch, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=decoding.max_new_tokens
            )
        texts += tokenizer.batch_decode(sequences[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def seconds(work: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(model: Any, tokenizer: Any, shape: Shape, repetitions: int) -> None:
    chance = random.Random(0)
    prompts = ["".join(chance.choices(CHARACTERS, k=chance.randint(*shape.lengths))) for _ in range(shape.prompts)]
    few = prompts[: len(prompts) // 4]
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "ours": (len(prompts), lambda: sample(model, tokenizer, prompts, shape.decoding, batch_rows=ROWS)),
        "plain": (len(few), lambda: generate_loop(model, tokenizer, few, shape.decoding, TRL_ROWS)),
        "wide": (len(prompts), lambda: generate_loop(model, tokenizer, prompts, shape.decoding, ROWS)),
    }
    results = sample(model, tokenizer, prompts, shape.decoding)
    generate_loop(model, tokenizer, prompts[:1], shape.decoding, ROWS)  # warm-up, as the line before: lazy imports
    speeds = [
        {name: count * shape.decoding.samples / seconds(work) for name, (count, work) in ways.items()}
        for _ in range(repetitions)
    ]
    lengths = [len(completion.tokens) for completions in results for completion in completions]
    print(f"{shape.name}: {len(lengths)} samples, {statistics.mean(lengths):.1f} tokens on average")
    for name in ways:
        print(f"  {name:12} {spread([speed[name] for speed in speeds], '7.0f')} samples/s")
    for name in ("plain", "wide"):
        print(f"  ours / {name:5} {spread([speed['ours'] / speed[name] for speed in speeds], '7.2f')} times")


def spread(values: list[float], form: str) -> str:
    return f"median {statistics.median(values):{form}}, min {min(values):{form}}, max {max(values):{form}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--shape", choices=[shape.name for shape in SHAPES], help="only this shape")
    parser.add_argument(
        "--threads", type=int, default=1, help="more than 1 only on an idle machine: threads that wait spin"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as directory:
        model, tokenizer = small_qwen2(Path(directory))
        print(f"{model.device}, {torch.get_num_threads()} threads, {options.repetitions} repetitions")
        for shape in SHAPES:
            if options.shape in (None, shape.name):
                compare(model, tokenizer, shape, options.repetitions)


if __name__ == "__main__":
    main()
