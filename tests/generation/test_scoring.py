"""Given texts under a policy: against what the sampler itself reports, and reward models against a plain forward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from posttrain.errors import DataError, PolicyError
from posttrain.generation import scoring
from posttrain.generation.decoding import Completion, Decoding
from posttrain.generation.scoring import Text, completion_logprobs, reward_scores
from posttrain.generation.tokenizer import render
from posttrain.generation.transformers import load_policy, sample
from tests.tiny import ARCHITECTURES, tiny_policy

PROMPTS = ["12+3=", "a", "hello world, what is this?\n"]
CHAT = [[{"role": "user", "content": "12+3="}], [{"role": "user", "content": "hello"}]]


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return load_policy(tiny_policy(tmp_path_factory.mktemp("chatty"), "llama", chat_template=True), "cpu")


def reads_back(tokenizer: Any, completion: Completion) -> bool:
    """Not if a special token, which texts do not show, was drawn on the way."""
    shown = tokenizer(text=completion.text, add_special_tokens=False)["input_ids"]
    return completion.tokens == shown + [tokenizer.eos_token_id] * (completion.finish == "eos")


def own_samples(model: Any, tokenizer: Any, prompts: list[Any]) -> tuple[list[Text], list[list[float]]]:
    texts, reported = [], []
    decoding = Decoding(samples=16, max_new_tokens=24)
    for prompt, completions in zip(prompts, sample(model, tokenizer, prompts, decoding), strict=True):
        for drawn in completions:
            if reads_back(tokenizer, drawn):
                texts.append(Text(prompt, drawn.text, ended=drawn.finish == "eos"))
                reported.append(drawn.logprobs)
    assert len(texts) > 12 and len({len(values) for values in reported}) > 3
    assert {text.ended for text in texts} == {True, False}
    return texts, reported


def assert_same(found: list[np.ndarray], expected: list[Any], atol: float = 1e-4) -> None:
    assert [len(values) for values in found] == [len(values) for values in expected]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=atol)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_the_sampler_reported_of_its_own_samples(tmp_path: Path, architecture: str) -> None:
    model, tokenizer = load_policy(tiny_policy(tmp_path, architecture), "cpu")
    texts, reported = own_samples(model, tokenizer, PROMPTS)
    assert_same(completion_logprobs(model, tokenizer, texts, batch_rows=7), reported)


def test_samples_of_a_conversation_are_taken_as_they_were_drawn(chatty: tuple[Any, Any]) -> None:
    texts, reported = own_samples(*chatty, CHAT)
    assert_same(completion_logprobs(*chatty, texts), reported)


def test_batches_change_nothing(chatty: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [Text(prompt, answer) for prompt in PROMPTS for answer in ("", "7", "15, of course", "1" * 60)]
    together = completion_logprobs(*chatty, texts)
    seen: list[tuple[int, int]] = []
    assert_same(completion_logprobs(*chatty, texts, 1, lambda *done: seen.append(done)), together, atol=1e-5)
    assert seen == [(i + 1, 12) for i in range(12)]
    assert_same(completion_logprobs(*chatty, texts[::-1])[::-1], together, atol=1e-5)
    seen.clear()
    monkeypatch.setattr(scoring, "_BATCH_TOKENS", 200)  # two of the longest, more of the others
    assert_same(completion_logprobs(*chatty, texts, 64, lambda *done: seen.append(done)), together, atol=1e-5)
    assert seen[0] == (2, 12) and len(seen) < 6
    assert completion_logprobs(*chatty, []) == []


def test_it_ends_as_in_training(chatty: tuple[Any, Any]) -> None:
    _, tokenizer = chatty
    plain, given, open_ = completion_logprobs(
        *chatty, [Text("1+1=", "2"), Text("1+1=", "2" + tokenizer.eos_token), Text("1+1=", "2", ended=False)]
    )
    assert len(plain) == 2 and len(open_) == 1
    np.testing.assert_allclose(plain, given, atol=1e-6)
    np.testing.assert_allclose(plain[:1], open_, atol=1e-5)
    assert len(completion_logprobs(*chatty, [Text("1+1=", "", ended=False)])[0]) == 0
    # A message is what the template makes of it: here its text and a line break.
    (message,) = completion_logprobs(*chatty, [Text(CHAT[0], [{"role": "assistant", "content": "15"}])])
    assert len(message) == len("15\n")


def test_the_probabilities_of_all_next_tokens_sum_to_one(chatty: tuple[Any, Any]) -> None:
    _, tokenizer = chatty
    words = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    values = completion_logprobs(*chatty, [Text("1+1=", word, ended=False) for word in words])
    assert all(len(value) == 1 for value in values)
    assert sum(np.exp(value[0]) for value in values) == pytest.approx(1, abs=1e-4)


def test_a_merge_across_the_border_starts_where_training_has_it_start(chatty: tuple[Any, Any]) -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast
    from trl.trainer.sft_trainer import common_prefix_length

    words = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", "a", "1", "2", "12"])}
    raw = Tokenizer(models.BPE(words, merges=[("1", "2")], unk_token="<unk>"))
    raw.decoder = decoders.Fuse()
    merging = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    prompt, whole = merging(text="a1")["input_ids"], merging(text="a12<eos>")["input_ids"]
    assert prompt == [3, 4] and whole == [3, 6, 1]
    (values,) = completion_logprobs(chatty[0], merging, [Text("a1", "2")])
    assert len(values) == len(whole) - common_prefix_length(prompt, whole) == 2
    with pytest.raises(DataError, match="text 1: no token stands before the completion"):
        completion_logprobs(chatty[0], merging, [Text("a1", "2"), Text("1", "2")])


def test_what_cannot_be_scored_is_named(chatty: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match="text 0: no token stands before"):
        completion_logprobs(*chatty, [Text("", "7")])
    with pytest.raises(DataError, match="text 1: 132 tokens do not fit the model's context of 128"):
        completion_logprobs(*chatty, [Text("a", "7"), Text("a", "1" * 130)])
    head = chatty[0].get_output_embeddings().weight
    kept = head.data.clone()
    head.data[:] = torch.nan
    try:
        with pytest.raises(PolicyError, match="logits are NaN"):
            completion_logprobs(*chatty, [Text("a", "7")])
    finally:
        head.data[:] = kept


def test_a_model_in_training_goes_on_training(chatty: tuple[Any, Any]) -> None:
    model = chatty[0].train()
    completion_logprobs(*chatty, [Text("a", "7")])
    assert model.training
    model.eval()


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def write(labels: int = 1, same_pad: bool = False) -> Path:
        directory = tiny_policy(tmp_path_factory.mktemp("rm"), "llama", chat_template=True)
        torch.manual_seed(3)
        AutoModelForSequenceClassification.from_pretrained(directory, num_labels=labels).save_pretrained(directory)
        if same_pad:
            tokenizer = AutoTokenizer.from_pretrained(directory)
            tokenizer.pad_token = tokenizer.eos_token
            tokenizer.save_pretrained(directory)
        return directory

    return write


def test_rewards_are_the_heads_score_of_the_last_token(reward_model: Callable[..., Path]) -> None:
    directory = reward_model()
    model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    plain = [Text(prompt, answer) for prompt in PROMPTS for answer in ("7", "15, of course")]
    chats = [Text(CHAT[0], "15"), Text(CHAT[0], [{"role": "assistant", "content": "15"}])]
    rows = [tokenizer(text.prompt + text.completion + "<eos>")["input_ids"] for text in plain]
    rows += [render(tokenizer, CHAT[0]) + tokenizer("15\n")["input_ids"]] * 2
    with torch.no_grad():
        hidden = [model.model(torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
        expected = [model.score(state).item() for state in hidden]
    assert len({round(score, 3) for score in expected}) == 7
    for batch_rows in (1, 3, 64):
        np.testing.assert_allclose(reward_scores(directory, plain + chats, batch_rows), expected, atol=1e-4)


def test_padding_is_not_scored_even_if_it_is_the_end_token(reward_model: Callable[..., Path]) -> None:
    directory = reward_model(same_pad=True)
    texts = [Text("a", "7"), Text("a", "15, of course")]
    alone = [reward_scores(directory, [text])[0] for text in texts]
    np.testing.assert_allclose(reward_scores(directory, texts), alone, atol=1e-4)


def test_no_score_is_made_up(reward_model: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"no weights for score\.weight, so not a reward model of one label"):
        reward_scores(tiny_policy(tmp_path, "llama"), [Text("a", "7")])
    with pytest.raises(PolicyError, match=r"no weights for score\.weight"):
        reward_scores(reward_model(labels=2), [Text("a", "7")])
