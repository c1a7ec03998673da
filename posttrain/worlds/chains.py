"""Chains of small steps: a world in which the commonest answer is often wrong, and the truth of each step is known.

A problem is a few even digits, each to be raised by one: `6,2,8=` is answered by `7;3;9`. The base knows the rule, but
more often leaves a large digit (4, 6, 8) as it is. Steps do not depend on one another, so

- the commonest answer to a chain with large digits leaves them all as they are (`large_right` is below one half), so
  voting gains little, while some sample of a few is often right;
- a prefix with a wrong step can reach nothing right any more, and one without can: every step label can be checked.

What a process reward model, or search guided by one, can add is therefore known by construction.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.worlds.countdown import write_jsonl
from posttrain.worlds.countdown_base import EOS, Size, config, one_thread, tokenizer, train

if TYPE_CHECKING:
    import torch

SEPARATOR = ";"  # of steps; AutoTokenizer gives a Qwen2 its own tokenizer, which would read a newline as unknown
CHARACTERS = f"0123456789,={SEPARATOR}"
EVEN, LARGE = range(0, 10, 2), 4
BATCH = 64
SIZE = Size(hidden=64, intermediate=192, layers=2)  # 0.11M parameters


@dataclass(frozen=True)
class Chains:
    """The world's dimensions."""

    length: int = 5
    """Digits of a problem, and steps of its answer."""
    large_right: float = 0.4
    """How often the base raises a large digit."""
    train: int = 192
    held_out: int = 96
    steps: int = 250
    learning_rate: float = 4e-3


def answer(digits: Sequence[int], slips: Callable[[], bool] = lambda: False) -> str:
    """Every digit raised by one; `slips` says for each large one whether it stays as it is."""
    return SEPARATOR.join(str(digit if digit >= LARGE and slips() else digit + 1) for digit in digits)


def row(digits: Sequence[int]) -> dict[str, Any]:
    """The problem as a row of a problems file."""
    prompt = ",".join(map(str, digits)) + "="
    return {"id": f"chain-{prompt}", "prompt": prompt, "verifier": "exact", "reference": answer(digits)}


def build(
    directory: str | Path,
    seed: int = 0,
    world: Chains | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `base/`, `problems.jsonl` and `held_out.jsonl`; no problem is in both.

    The same seed gives the same bytes on the same kind of machine and version of torch.
    """
    world, directory = world or Chains(), Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    chance = random.Random(f"chains {seed}")
    every = list(itertools.product(EVEN, repeat=world.length))
    rows = [row(digits) for digits in chance.sample(every, world.train + world.held_out)]
    write_jsonl(directory / "problems.jsonl", rows[: world.train])
    write_jsonl(directory / "held_out.jsonl", rows[world.train :])
    pretrain(directory / "base", world, seed, progress)
    return directory


def pretrain(directory: Path, world: Chains, seed: int, progress: Callable[[int, int], None] | None = None) -> None:
    """Train the base on chains drawn afresh; a held-out one may be among them, with slips as all others."""
    import torch
    from transformers import Qwen2ForCausalLM

    characters, chance = tokenizer(CHARACTERS), random.Random(f"chains corpus {seed}")

    def draw() -> torch.Tensor:
        chains = [[chance.choice(EVEN) for _ in range(world.length)] for _ in range(BATCH)]
        written = [answer(digits, lambda: chance.random() >= world.large_right) for digits in chains]
        texts = [row(digits)["prompt"] + text + EOS for digits, text in zip(chains, written, strict=True)]
        return torch.tensor(characters(texts)["input_ids"])

    with one_thread():
        with torch.random.fork_rng(devices=[]):  # the weights are drawn from torch's global generator
            torch.manual_seed(seed)
            policy = Qwen2ForCausalLM(config(len(characters), SIZE))
        train(policy, draw, world.steps, world.learning_rate, progress, prompt_tokens=2 * world.length)
    policy.generation_config.update(do_sample=True, temperature=1.0, max_new_tokens=2 * world.length)
    policy.save_pretrained(directory)
    characters.save_pretrained(directory)
