"""The base policies of Countdown worlds: small Qwen2s, pre-trained from nothing in well under a minute.

Unless told otherwise it has 0.86M parameters and learns to write `+ -` expressions of the prompt's digits, 15% of them
chosen to be right and the others at random (some are right by chance), so it knows every easy answer and prefers none.
`*` is in its vocabulary but in none of its completions. Held-out problems are not trained on. What is written is an
ordinary Hugging Face directory; the tokenizer has one token a character, and there is no chat template.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.worlds.countdown import EASY, Problem, expressions, solutions

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
CHARACTERS = "0123456789+-*=:"
PROMPT_TOKENS, COMPLETION_TOKENS = 7, 6  # `357=22:` and `3*5+7<eos>`: every row has the same length, nothing is padded
BATCH = 128
WARMUP_STEPS = 30
THREADS = 1  # the order of a sum, and so the bytes, depend on it; and two threads on busy cores spin for each other


@dataclass(frozen=True)
class Size:
    """The policy's widths and depth."""

    hidden: int = 128
    intermediate: int = 384
    layers: int = 4
    heads: int = 4


@dataclass(frozen=True)
class Lesson:
    """What is written under the prompts of one slice."""

    right: float = 0.15
    """Share of expressions that are chosen to be right; the others are drawn from all of them."""
    ops: str = "+-"
    """Operations of all expressions, right or not."""
    in_order: bool = False
    """Only expressions with the digits in the prompt's order."""
    times: int = 1
    """How often each problem of the slice stands in the corpus."""

    def expressions(self, problem: Problem) -> list[str]:
        """All that may be written under a problem."""
        written = expressions(problem.numbers, self.ops)
        return [text for text in written if not self.in_order or list(text[0::2]) == sorted(text[0::2])]


@dataclass(frozen=True)
class Pretraining:
    """What makes a policy what it is, but for the problems and the seed."""

    lessons: Mapping[str, Lesson] = field(default_factory=lambda: {EASY: Lesson()})
    """Slice → what is written under its prompts."""
    size: Size = field(default_factory=Size)
    steps: int = 300
    learning_rate: float = 2e-3


def tokenizer(characters_known: str = CHARACTERS) -> PreTrainedTokenizerFast:
    """One token a character; decoding gives back exactly the characters."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate([PAD, EOS, UNKNOWN, *characters_known])}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(""), "isolated")
    characters.decoder = decoders.Fuse()  # without it, decoding puts a space between the characters
    return PreTrainedTokenizerFast(
        tokenizer_object=characters,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=64,
    )


def config(vocabulary: int, size: Size) -> Qwen2Config:
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )


def pretrain(
    directory: Path,
    problems: Sequence[Problem],
    plan: Pretraining | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    init: Path | None = None,
) -> Path:
    """Train a policy on the problems' expressions and write it to `directory`.

    Args:
        problems: each of a slice that the plan has a lesson for.
        init: the policy to go on from; None = from nothing.
    """
    import torch
    from transformers import Qwen2ForCausalLM

    plan = plan or Pretraining()
    with one_thread():
        characters = tokenizer()
        repeated = [problem for problem in problems for _ in range(plan.lessons[problem.slice].times)]
        corpus = Corpus(characters, repeated, plan.lessons)
        chance = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):  # the weights are drawn from torch's global generator
            torch.manual_seed(seed)
            policy = (
                Qwen2ForCausalLM.from_pretrained(init) if init else Qwen2ForCausalLM(config(len(characters), plan.size))
            )
        train(policy, lambda: corpus.draw(BATCH, chance), plan.steps, plan.learning_rate, progress)
    policy.generation_config.update(do_sample=True, temperature=1.0, max_new_tokens=COMPLETION_TOKENS)
    policy.save_pretrained(directory)
    characters.save_pretrained(directory)
    return directory


@contextmanager
def one_thread() -> Iterator[None]:
    """`THREADS` for torch, and then what it was."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train(
    policy: Qwen2ForCausalLM,
    draw: Callable[[], torch.Tensor],
    steps: int,
    learning_rate: float,
    progress: Callable[[int, int], None] | None = None,
    prompt_tokens: int = PROMPT_TOKENS,
) -> None:
    """Next-token training on the completions of batches drawn afresh, with warm-up and a cosine decay to zero."""
    import torch

    policy.train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / WARMUP_STEPS, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
    )
    for step in range(steps):
        tokens = draw()
        logits = policy(tokens[:, :-1]).logits[:, prompt_tokens - 1 :]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, prompt_tokens:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if progress is not None:
            progress(step + 1, steps)


class Corpus:
    """The pre-training distribution: a problem, then one of its right expressions or any of them."""

    def __init__(
        self, characters: PreTrainedTokenizerFast, problems: Sequence[Problem], lessons: Mapping[str, Lesson]
    ) -> None:
        import torch

        right, written = [], []
        for problem in problems:
            allowed = lessons[problem.slice].expressions(problem)
            answers = solutions(problem.numbers, problem.target)
            chosen = [text for text in allowed if text in answers] or allowed  # none is right: as good as any
            written.append(self._encode(characters, problem, allowed))
            right.append(self._encode(characters, problem, chosen))
        self._right, self._written = self._table(right), self._table(written)
        self._share = torch.tensor([lessons[problem.slice].right for problem in problems])

    def draw(self, batch: int, chance: torch.Generator) -> torch.Tensor:
        """Token ids of `batch` rows, shape (batch, PROMPT_TOKENS + COMPLETION_TOKENS)."""
        import torch

        problem = torch.randint(len(self._share), (batch,), generator=chance)
        wants_right = torch.rand(batch, generator=chance) < self._share[problem]
        place = torch.rand(batch, generator=chance)
        drawn = [tokens[problem, (place * count[problem]).long()] for tokens, count in (self._right, self._written)]
        return torch.where(wants_right[:, None], *drawn)

    @staticmethod
    def _encode(characters: Any, problem: Problem, completions: Sequence[str]) -> torch.Tensor:
        import torch

        return torch.tensor(characters([problem.prompt + text + EOS for text in completions])["input_ids"])

    @staticmethod
    def _table(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of different counts as one padded tensor (problems, most, tokens) and the counts."""
        import torch

        return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), torch.tensor([len(row) for row in rows])
