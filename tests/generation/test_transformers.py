"""Sampling against `generate`, exact distributions and teacher-forced forwards, through both ways to decode."""

from __future__ import annotations

import functools
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from posttrain.errors import DataError, PolicyError
from posttrain.generation import transformers as engine
from posttrain.generation.decode import can_repeat_cache
from posttrain.generation.decoding import Completion, Decoding
from posttrain.generation.tokenizer import render
from posttrain.generation.transformers import load_policy, sample
from tests.tiny import ARCHITECTURES, CONTEXT, tiny_policy

Policy = tuple[Any, Any]
PROMPTS = ["12+3=", "a", "hello world, what is this?\n", "Count: 1 2 3"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Policy]:
    """Tiny policies by architecture, one of each a module. Tests that change one put it back."""

    @functools.cache
    def load(architecture: str, **kwargs: Any) -> Policy:
        return load_policy(tiny_policy(tmp_path_factory.mktemp(architecture), architecture, **kwargs), "cpu")

    return load


@pytest.fixture(params=["shared", "generate"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test through the shared cache, then with every policy sent through `generate`."""
    if request.param == "generate":
        monkeypatch.setattr(engine, "can_repeat_cache", lambda model: False)
    return request.param


def tokens(results: list[list[Completion]]) -> list[list[list[int]]]:
    return [[completion.tokens for completion in completions] for completions in results]


def teacher_forced(model: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Log-probabilities of a completion's tokens from one full forward without padding or cache."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion]), use_cache=False).logits[0].float()
    logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return logprobs.gather(-1, torch.tensor(completion)[:, None])[:, 0]


def test_only_hybrids_need_generate(policy: Callable[..., Policy]) -> None:
    assert {name for name in ARCHITECTURES if not can_repeat_cache(policy(name)[0])} == {"lfm2"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_is_what_generate_gives_each_prompt_alone(
    policy: Callable[..., Policy], architecture: str, way: str
) -> None:
    model, tokenizer = policy(architecture)
    results = sample(model, tokenizer, PROMPTS, Decoding(samples=2, max_new_tokens=24, temperature=0))
    for prompt, completions in zip(PROMPTS, results, strict=True):
        ids = render(tokenizer, prompt)
        alone = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=24)[0, len(ids) :].tolist()
        assert [completion.tokens for completion in completions] == [alone, alone]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logprobs_are_the_policys_own(policy: Callable[..., Policy], architecture: str, way: str) -> None:
    model, tokenizer = policy(architecture)
    decoding = Decoding(samples=6, max_new_tokens=24, temperature=1.5, top_k=40, top_p=0.95)
    for prompt, completions in zip(PROMPTS, sample(model, tokenizer, PROMPTS, decoding), strict=True):
        for completion in completions:
            expected = teacher_forced(model, render(tokenizer, prompt), completion.tokens)
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "qwen3_moe", "lfm2"])
def test_both_ways_draw_the_same(
    policy: Callable[..., Policy], architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = policy(architecture)
    decoding = Decoding(samples=20, max_new_tokens=40, temperature=0.9, seed=3)
    shared = sample(model, tokenizer, PROMPTS, decoding)
    assert len({len(completion.tokens) for completion in shared[0]}) > 3, "rows must end at different steps"
    monkeypatch.setattr(engine, "can_repeat_cache", lambda model: False)
    assert tokens(sample(model, tokenizer, PROMPTS, decoding)) == tokens(shared)


def drawn_from(logits: torch.Tensor, decoding: Decoding) -> torch.Tensor:
    """The distribution a token should have, from the definitions: temperature, then top-k, then top-p."""
    probabilities = (logits.double() / decoding.temperature).softmax(-1)
    ranked, order = probabilities.sort(descending=True)
    if decoding.top_k:
        ranked[decoding.top_k :] = 0
        ranked /= ranked.sum()
    before = ranked.cumsum(-1) - ranked
    ranked[before >= decoding.top_p] = 0
    return torch.zeros_like(ranked).scatter(-1, order, ranked / ranked.sum())


def two_token_distribution(model: Any, tokenizer: Any, prompt: str, decoding: Decoding) -> dict[tuple[int, ...], float]:
    """Every completion of at most two tokens with its exact probability."""
    ids = render(tokenizer, prompt)

    def following(extra: list[int]) -> list[float]:
        with torch.no_grad():
            logits = model(torch.tensor([ids + extra]), use_cache=False).logits[0, -1]
        return drawn_from(logits, decoding).tolist()

    exact: dict[tuple[int, ...], float] = {}
    for first, probability in enumerate(following([])):
        if probability == 0:
            continue
        if first == tokenizer.eos_token_id:
            exact[(first,)] = probability
        else:
            exact.update({(first, second): probability * p for second, p in enumerate(following([first])) if p > 0})
    return exact


def chi_square_p(counts: Counter[tuple[int, ...]], exact: dict[tuple[int, ...], float]) -> float:
    """p-value of observed counts; outcomes expected fewer than five times are pooled."""
    total = counts.total()
    cells = [(counts[outcome], total * probability) for outcome, probability in exact.items()]
    large = [cell for cell in cells if cell[1] >= 5]
    small = [cell for cell in cells if cell[1] < 5]
    if small:
        large.append((sum(seen for seen, _ in small), sum(expected for _, expected in small)))
    statistic = sum((seen - expected) ** 2 / expected for seen, expected in large)
    degrees = torch.tensor((len(large) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(degrees, torch.tensor(statistic / 2, dtype=torch.float64)))


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.6}, {"top_k": 3}, {"top_p": 0.7}, {"temperature": 1.4, "top_k": 6, "top_p": 0.9}],
    ids=str,
)
def test_completions_have_the_exact_distribution(
    policy: Callable[..., Policy], settings: dict[str, float], way: str
) -> None:
    model, tokenizer = policy("qwen2", characters="abcdef", seed=1)
    prompts = ["abc", "f"]
    decoding = Decoding(samples=20_000, max_new_tokens=2, seed=11, **settings)
    results = sample(model, tokenizer, prompts, decoding, batch_rows=40_000)
    for prompt, completions in zip(prompts, results, strict=True):
        exact = two_token_distribution(model, tokenizer, prompt, decoding)
        counts = Counter(tuple(completion.tokens) for completion in completions)
        assert counts.keys() <= exact.keys()
        assert chi_square_p(counts, exact) > 1e-3


def test_the_chi_square_notices_a_wrong_temperature(policy: Callable[..., Policy]) -> None:
    model, tokenizer = policy("qwen2", characters="abcdef", seed=1)
    [completions] = sample(model, tokenizer, ["abc"], Decoding(samples=20_000, max_new_tokens=2, temperature=0.95))
    exact = two_token_distribution(model, tokenizer, "abc", Decoding(samples=1, max_new_tokens=2))
    assert chi_square_p(Counter(tuple(completion.tokens) for completion in completions), exact) < 1e-4


def test_a_seed_fixes_the_completions_and_the_global_states_stay(policy: Callable[..., Policy], way: str) -> None:
    model, tokenizer = policy("llama")
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    decoding = Decoding(samples=5, max_new_tokens=20, seed=1)
    first = sample(model, tokenizer, PROMPTS, decoding)
    torch.testing.assert_close(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    torch.rand(3)
    assert sample(model, tokenizer, PROMPTS, decoding) == first
    assert tokens(sample(model, tokenizer, PROMPTS, decoding.model_copy(update={"seed": 2}))) != tokens(first)
    assert len({tuple(completion.tokens) for completion in first[0]}) > 1


@pytest.mark.parametrize("batch_rows", [1, 3, 12])
def test_completions_do_not_depend_on_the_batch(policy: Callable[..., Policy], batch_rows: int, way: str) -> None:
    model, tokenizer = policy("llama")
    decoding = Decoding(samples=5, max_new_tokens=12, seed=1)
    expected = tokens(sample(model, tokenizer, PROMPTS, decoding))
    assert tokens(sample(model, tokenizer, PROMPTS, decoding, batch_rows=batch_rows)) == expected
    more = sample(model, tokenizer, PROMPTS[:1], decoding.model_copy(update={"samples": 7}))
    assert tokens(more)[0][:5] == expected[0], "more samples must extend, not replace"


def test_every_eos_ends_a_completion(policy: Callable[..., Policy], monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    model, tokenizer = policy("llama", characters="abcdef")
    letter = tokenizer.convert_tokens_to_ids("c")
    monkeypatch.setattr(model.generation_config, "eos_token_id", letter)
    [completions] = sample(model, tokenizer, ["abc"], Decoding(samples=200, max_new_tokens=6))
    ends = {letter, tokenizer.eos_token_id}
    for completion in completions:
        assert not ends & set(completion.tokens[:-1])
        assert (completion.tokens[-1] in ends) == (completion.finish == "eos")
        assert completion.finish == "eos" or len(completion.tokens) == 6
        assert len(completion.logprobs) == len(completion.tokens)
        assert "c" not in completion.text and "<" not in completion.text
    assert {completion.tokens[-1] for completion in completions} >= ends
    assert {completion.finish for completion in completions} == {"eos", "length"}


def test_the_generation_config_does_not_change_the_distribution(
    policy: Callable[..., Policy], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    model, tokenizer = policy("llama")
    decoding = Decoding(samples=4, max_new_tokens=20)
    expected = sample(model, tokenizer, PROMPTS, decoding)
    own = model.generation_config
    for name, value in {"repetition_penalty": 5.0, "temperature": 0.1, "top_k": 2, "num_beams": 2}.items():
        monkeypatch.setattr(own, name, value)
    assert sample(model, tokenizer, PROMPTS, decoding) == expected
    assert model.generation_config is own


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_context_limit(policy: Callable[..., Policy], architecture: str, way: str) -> None:
    model, tokenizer = policy(architecture)
    decoding = Decoding(samples=8, max_new_tokens=60)
    full, nearly, one = "a" * CONTEXT, "a" * (CONTEXT - 3), "a" * (CONTEXT - 1)
    with pytest.raises(DataError, match=f"prompt 1: {CONTEXT} tokens .* context of {CONTEXT}"):
        sample(model, tokenizer, ["a", full], decoding)
    with pytest.raises(DataError, match="prompt 0: no tokens"):
        sample(model, tokenizer, [""], decoding)
    # Enough long rows that the short ones are carried along after their end, when their positions must stand still.
    results = sample(model, tokenizer, ["a", nearly, one, *"bcdefgh"], decoding)
    assert [max(len(completion.tokens) for completion in row) for row in results] == [60, 3, 1] + [60] * 7
    assert all(completion.finish in ("eos", "length") for row in results for completion in row)
    for completion in results[1]:
        expected = teacher_forced(model, render(tokenizer, nearly), completion.tokens)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=2e-4, rtol=0)


def test_prompts_are_rendered_as_trl_renders_them(policy: Callable[..., Policy]) -> None:
    _, tokenizer = policy("qwen2", chat_template=True)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    assert render(tokenizer, "1+1?") == tokenizer(text=["1+1?"])["input_ids"][0]
    chat = tokenizer.apply_chat_template([messages], add_generation_prompt=True, tokenize=True, return_dict=True)
    assert render(tokenizer, messages) == chat["input_ids"][0]
    assert tokenizer.decode(render(tokenizer, messages)) == "system: Be brief.\nuser: 1+1?\nassistant: "


def test_messages_are_sampled_through_the_template(policy: Callable[..., Policy]) -> None:
    model, tokenizer = policy("qwen2", chat_template=True)
    decoding = Decoding(samples=2, max_new_tokens=5)
    messages = [{"role": "user", "content": "1+1?"}]
    expected = sample(model, tokenizer, ["user: 1+1?\nassistant: "], decoding)
    assert sample(model, tokenizer, [messages], decoding) == expected
    model, tokenizer = policy("qwen2")
    with pytest.raises(DataError, match="no chat template"):
        sample(model, tokenizer, [messages], decoding)


def test_no_prompts_progress_and_training_mode(policy: Callable[..., Policy]) -> None:
    model, tokenizer = policy("llama")
    decoding = Decoding(samples=2, max_new_tokens=2)
    assert sample(model, tokenizer, [], decoding) == []
    seen: list[tuple[int, int]] = []
    model.train()
    sample(model, tokenizer, PROMPTS, decoding, batch_rows=4, on_progress=lambda *progress: seen.append(progress))
    assert seen == [(2, 4), (4, 4)]
    assert model.training
    model.eval()


def test_a_diverged_policy_is_named(policy: Callable[..., Policy], way: str) -> None:
    model, tokenizer = policy("llama", seed=9)
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    with pytest.raises(PolicyError, match="NaN or infinite"):
        sample(model, tokenizer, PROMPTS, Decoding(samples=2, max_new_tokens=4))


def test_load_policy(policy: Callable[..., Policy], tmp_path: Any) -> None:
    model, tokenizer = policy("gpt2")
    assert (model.dtype, model.training, tokenizer.padding_side) == (torch.float32, False, "left")
    directory = tiny_policy(tmp_path, "llama")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(PolicyError, match="pickle"):
        load_policy(directory)


def test_decoding_refuses_what_it_cannot_do_and_needs_no_torch() -> None:
    for wrong in ({"samples": 0}, {"max_new_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"tempreature": 1}):
        with pytest.raises(ValidationError):
            Decoding(**{"samples": 1, "max_new_tokens": 1, **wrong})
    code = "import sys, posttrain.generation.decoding; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
